/** A configuration that is wrong, as an error. */
import { formatProblem, formatProblems } from "../config/diagnostics.ts";
import type { Problem } from "../config/problem.ts";
import { ConveyError } from "../native/index.ts";

/** One error for everything wrong with a configuration; its message tells the first and how many more. */
export function invalidConfig(problems: Problem[]): ConveyError {
  const errors = problems.filter((p) => p.severity === "error");
  const first = errors[0];
  const more = errors.length > 1 ? ` (and ${errors.length - 1} more)` : "";
  const text =
    first === undefined
      ? "the configuration is invalid"
      : `${first.file === undefined ? formatProblem(first) : formatProblems([first])}${more}`;
  return new ConveyError("CONFIG_INVALID", text, {
    problems,
    ...(first === undefined || first.path === "" ? {} : { field: first.path }),
  });
}
