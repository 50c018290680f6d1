/** Problems as text for people: `file:line:column: error: key: message`, with the source line on a terminal. */
import pc from "picocolors";
import { inert, type Problem } from "./problem.ts";

export interface FormatOptions {
  /** Colours, for a terminal. */
  color?: boolean;
  /** Texts by the names of their files: the line and a caret are shown below each problem. */
  sources?: ReadonlyMap<string, string> | undefined;
  /** Problems shown at most before "and N more"; all unless given. */
  limit?: number;
}

/** One line for each problem, or three with `source`; no newline at the end. */
export function formatProblems(problems: readonly Problem[], options: FormatOptions = {}): string {
  const { limit = Number.POSITIVE_INFINITY, sources } = options;
  const paint = pc.createColors(options.color === true);
  const known = new Map<string, string[]>();
  const linesOf = (file: string): string[] => {
    const lines =
      known.get(file) ??
      sources
        ?.get(file)
        ?.replace(/^\ufeff/, "")
        .split(/\r?\n/) ??
      [];
    known.set(file, lines);
    return lines;
  };
  const shown = problems.slice(0, limit).flatMap((problem) => {
    const head = headline(problem, paint);
    const excerpt = problem.line === undefined ? [] : caret(problem, linesOf(problem.file ?? ""), paint);
    return [head, ...excerpt];
  });
  if (problems.length > limit) shown.push(`... and ${problems.length - limit} more`);
  return shown.join("\n");
}

/** A problem in one line without its place: `mode: unknown value (found "x", expected …)`. */
export function formatProblem(problem: Problem): string {
  const { path, message, found, expected, suggestion } = problem;
  const details = [
    found === undefined ? undefined : `found ${found}`,
    expected === undefined ? undefined : `expected ${expected}`,
  ].filter((part) => part !== undefined);
  return [
    path === "" ? "" : `${path}: `,
    message,
    details.length === 0 ? "" : ` (${details.join(", ")})`,
    suggestion === undefined ? "" : `; did you mean "${inert(suggestion)}"?`,
  ].join("");
}

type Paint = ReturnType<typeof pc.createColors>;

function headline(problem: Problem, paint: Paint): string {
  const place = placeOf(problem);
  const severity = problem.severity === "error" ? paint.red("error") : paint.yellow("warning");
  return `${place === "" ? "" : `${paint.bold(place)}: `}${severity}: ${formatProblem(problem)}`;
}

function placeOf({ origin, file, line, column }: Problem): string {
  if (origin !== undefined) return inert(origin);
  return [file === undefined ? undefined : inert(file), line, column]
    .filter((part) => part !== undefined)
    .join(":");
}

const WIDTH = 100;

function caret({ line = 1, column = 1 }: Problem, lines: readonly string[], paint: Paint): string[] {
  const text = lines[line - 1];
  if (text === undefined) return [];
  // A window of a long line, so that the caret stays under what it means.
  const from = column > WIDTH ? column - WIDTH / 2 : 0;
  const before = inert(text.slice(from, column - 1).replaceAll("\t", " "));
  const after = inert(text.slice(column - 1, from + WIDTH).replaceAll("\t", " "));
  const margin = `${String(line).padStart(5)} | `;
  return [
    paint.dim(margin) + before + after,
    paint.dim(`${" ".repeat(5)} | `) + " ".repeat(before.length) + paint.red("^"),
  ];
}
