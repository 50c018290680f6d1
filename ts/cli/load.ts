/** Loads the configuration that the options name and tells every problem on standard error. */
import { formatProblems } from "../config/diagnostics.ts";
import { type LoadOptions, type LoadResult, loadConfigFile } from "../config/load.ts";
import type { Override } from "../config/overrides.ts";
import { useColor } from "./terminal.ts";

export type Loaded = Extract<LoadResult, { ok: true }>;

/**
 * The checked configuration; undefined when it is invalid, which has been told by then. Without `warnings`
 * those of a valid configuration are left to the caller. With `host` it is judged for a start on this host.
 */
export async function loadOrExplain(
  file: string,
  overrides: readonly Override[],
  { warnings = true, host = false, ...options }: LoadOptions & { warnings?: boolean } = {},
): Promise<Loaded | undefined> {
  const result = await loadConfigFile(file, overrides, { ...options, host });
  const problems = result.ok ? (warnings ? result.warnings : []) : result.problems;
  if (problems.length > 0) {
    const terminal = process.stderr.isTTY === true;
    const sources = terminal ? result.texts : undefined;
    process.stderr.write(`${formatProblems(problems, { color: useColor(terminal), sources })}\n`);
  }
  return result.ok ? result : undefined;
}
