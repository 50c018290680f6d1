import { expect, test } from "vitest";
import { picture } from "../../support/terminal.ts";

const [HOME, REST_OF_LINE, REST_OF_SCREEN] = ["\u001b[H", "\u001b[K", "\u001b[J"];
const paint = (...lines: string[]) =>
  HOME + lines.map((line) => line + REST_OF_LINE).join("\r\n") + REST_OF_SCREEN;

test("the latest whole picture is taken, wherever a terminal cuts what comes after it", () => {
  const first = paint("one", "two");
  const second = paint("three", "four", "five");
  for (let cut = 0; cut < second.length; cut++) {
    expect(picture(`\u001b[?1049h${first}${second.slice(0, cut)}`)).toEqual(["one", "two"]);
  }
  expect(picture(first + second)).toEqual(["three", "four", "five"]);
});

test("before the first whole picture there is none", () => {
  const only = paint("one", "two");
  for (let cut = 0; cut < only.length; cut++) expect(picture(only.slice(0, cut))).toEqual([]);
});
