import { expect, test } from "vitest";
import { parsePrograms } from "../../bench/packet/programs.ts";

const PRINTED = [
  "ns a packet                   1 flow          64 K of 64 K           64 K of 1 M                   1 M               all new",
  "empty              12 (11–13) 0.20       12 (12–13) 0.10       12 (12–13) 0.08       13 (12–13) 0.05                     –",
  "nat reply          40 (39–44) 0.58      150 (149–155) 0.92     250 (240–260) 1.20     300 (290–310) 1.00                     –",
  "dsr minimal        30 (30–31) 0.51       31 (30–33) 0.18       31 (30–33) 0.15       33 (30–34) 0.12        40 (38–44) 0.10",
];

test("the table of the programs is read cell by cell, each with its target where there is one", () => {
  const figures = parsePrograms(PRINTED);
  const cell = (program: string, column: string) =>
    figures.find((f) => f.program === program && f.column === column);
  expect(cell("empty", "1 flow")).toMatchObject({
    ns: 12,
    least: 11,
    most: 13,
    ratio: 0.2,
    target: undefined,
  });
  expect(cell("nat reply", "64 K of 64 K")).toMatchObject({ ns: 150, ratio: 0.92, target: 0.9 });
  expect(cell("nat reply", "64 K of 1 M")).toMatchObject({ ns: 250, target: undefined });
  expect(cell("nat reply", "1 M")).toMatchObject({ ns: 300, ratio: 1, target: 1 });
  expect(cell("nat reply", "all new")).toBeUndefined();
  expect(cell("dsr minimal", "all new")).toMatchObject({ ns: 40, ratio: 0.1, target: 0.12 });
  expect(figures).toHaveLength(13);
});

test("a table with other columns is refused, since figures would stand under the wrong names", () => {
  expect(() => parsePrograms([PRINTED[0]?.replace("64 K of 1 M", "") ?? ""])).toThrow(/other columns/);
});
