/** Nanoseconds a packet of the programs themselves, beside reference programs, with the targets of each ratio. */
import { row } from "../report.ts";
import { exampleLines } from "./examples.ts";
import { BALANCER_CORE } from "./peers.ts";
import type { Section } from "./section.ts";

interface ProgramFigure {
  program: string;
  column: string;
  ns: number;
  least: number;
  most: number;
  /** To the program with a per-CPU LRU hash, in the same round. */
  ratio: number;
  /** The ratio may be this much. */
  target: number | undefined;
}

/** As the example names them; 64 K flows in a table sized for them, and in one for a million. */
const COLUMNS = ["1 flow", "64 K of 64 K", "64 K of 1 M", "1 M", "all new"] as const;

/** By what a row is called. */
const TARGETS: readonly [RegExp, readonly (number | undefined)[]][] = [
  [/^nat forward/, [0.6, 0.75, undefined, 0.85, 1.0]],
  [/^nat reply/, [0.6, 0.9, undefined, 1.0, undefined]],
  [/^dsr min/, [0.5, 0.2, undefined, 0.15, 0.12]],
  [/^dsr/, [0.55, 0.7, undefined, 0.8, 0.8]],
];

/** Runs the programs, on a core of their own. */
export async function programs(quick: boolean): Promise<Section> {
  const args = quick ? ["2", "300000"] : ["5"];
  const lines = await exampleLines("convey-xdp", "bench_programs", args, BALANCER_CORE);
  const figures = parsePrograms(lines);
  const names = [...new Set(figures.map(({ program }) => program))];
  const cell = (f: ProgramFigure | undefined) => {
    if (f === undefined) return "–";
    const ns = `${f.ns} [${f.least}–${f.most}], ${f.ratio.toFixed(2)}`;
    return f.target === undefined ? ns : `${ns} (≤ ${f.target}: ${f.ratio <= f.target ? "met" : "missed"})`;
  };
  const of = (program: string) =>
    COLUMNS.map((column) => cell(figures.find((f) => f.program === program && f.column === column)));
  return {
    name: "programs",
    lines: [
      "### Programs: ns a packet [range], ratio to a program with a per-CPU LRU hash",
      "",
      row(["program", ...COLUMNS]),
      row(["---", ...COLUMNS.map(() => "---:")]),
      ...names.map((name) => row([name, ...of(name)])),
    ],
    figures,
  };
}

/** Reads the table that the example prints: a row a program, a cell `ns (least–most) ratio` or `–` a column. */
export function parsePrograms(lines: readonly string[]): ProgramFigure[] {
  const head = lines.find((line) => line.startsWith("ns a packet"));
  if (head?.replace("ns a packet", "").trim().split(/ {2,}/).join() !== COLUMNS.join())
    throw new Error(`the example has other columns than ${COLUMNS.join(", ")}: ${head}`);
  return lines.flatMap((line) => {
    const cells = [...line.matchAll(/ (?:(\d+) \((\d+)–(\d+)\) ([\d.]+|NaN)|–)(?= |$)/g)];
    const program = line.slice(0, cells[0]?.index ?? 0).trim();
    const targets = TARGETS.find(([name]) => name.test(program))?.[1] ?? [];
    return cells.flatMap(([, ns, least, most, ratio], i) => {
      const column = COLUMNS[i];
      if (ns === undefined || column === undefined) return [];
      const numbers = { ns: Number(ns), least: Number(least), most: Number(most), ratio: Number(ratio) };
      return [{ program, column, ...numbers, target: targets[i] }];
    });
  });
}
