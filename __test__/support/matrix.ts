/**
 * A vitest reporter that prints, after the network suite, each case beside what became of it on each engine: what was
 * skipped there has its reason below, and so has an engine that no case was run on.
 */
import type { Reporter, TestCase, TestModule } from "vitest/node";
import { ENGINES } from "../net/engines.ts";

const PROJECT = /^net:(\w+)$/;

interface Outcome {
  mark: "ok" | "FAILED" | "skipped";
  reason: string | undefined;
}

export default class Matrix implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const cases = new Map<string, Map<string, Outcome>>();
    for (const module of modules) {
      const [, engine] = PROJECT.exec(module.project.name) ?? [];
      if (engine === undefined) continue;
      const file = module.relativeModuleId.replace(/^__test__\/net\//, "").replace(/\.test\.ts$/, "");
      for (const test of module.children.allTests()) {
        // Left out by whoever named others.
        if (test.result().state === "skipped" && outcome(test).reason === undefined) continue;
        const name = `${file}: ${test.fullName}`;
        const row = cases.get(name) ?? new Map<string, Outcome>();
        cases.set(name, row.set(engine, outcome(test)));
      }
    }
    if (cases.size > 0) console.log(matrix(cases));
  }
}

/** The table of these outcomes, by case and engine. */
export function matrix(cases: ReadonlyMap<string, ReadonlyMap<string, Outcome>>): string {
  const reasons: string[] = [];
  const note = (reason: string): string => {
    if (!reasons.includes(reason)) reasons.push(reason);
    return `(${reasons.indexOf(reason) + 1})`;
  };
  const cell = (row: ReadonlyMap<string, Outcome>, { name, without }: (typeof ENGINES)[number]): string => {
    const seen = row.get(name);
    if (seen === undefined) return note(`${name}: ${without ?? "not run"}`);
    return seen.mark === "skipped" ? note(`${name}: ${seen.reason ?? "marked as skipped"}`) : seen.mark;
  };
  const line = (cells: readonly string[], name: string) =>
    `${cells.map((text, n) => text.padEnd((ENGINES[n]?.name.length ?? 0) + 2)).join("")}${name}`;
  const rows = [...cases].map(([name, row]) =>
    line(
      ENGINES.map((engine) => cell(row, engine)),
      name,
    ),
  );
  return [
    "",
    "The network suite on each engine:",
    line(
      ENGINES.map(({ name }) => name),
      "",
    ),
    ...rows,
    ...reasons.map((reason, n) => `(${n + 1}) ${reason}`),
  ].join("\n");
}

function outcome(test: TestCase): Outcome {
  const result = test.result();
  if (result.state === "skipped") return { mark: "skipped", reason: result.note };
  return { mark: result.state === "passed" ? "ok" : "FAILED", reason: undefined };
}
