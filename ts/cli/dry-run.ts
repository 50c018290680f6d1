/** `convey run --dry-run`: what a start would change on this host, as lines one could type. */
import { lower } from "../config/lower.ts";
import type { Override } from "../config/overrides.ts";
import { loadDataplane } from "../native/index.ts";
import { EXIT } from "./exit-codes.ts";
import { loadOrExplain } from "./load.ts";

/** Prints the lines and returns the exit code; changes nothing and needs no privilege. */
export async function dryRun(file: string, overrides: readonly Override[]): Promise<number> {
  const loaded = await loadOrExplain(file, overrides, { host: true });
  if (loaded === undefined) return EXIT.failure;
  const { hostDryRun } = await loadDataplane();
  process.stdout.write(`${hostDryRun(lower(loaded.config)).join("\n")}\n`);
  return EXIT.ok;
}
