/** Configurations for programs: judged, with every default applied, or one error with everything that is wrong. */
import { checkConfig } from "../config/check.ts";
import { type LoadResult, loadConfigFile, parseConfigText } from "../config/load.ts";
import type { Overrides } from "../config/overrides.ts";
import type { Problem } from "../config/problem.ts";
import type { Config, ConfigInput } from "../config/schema.ts";
import { invalidConfig } from "./invalid-config.ts";

/** A configuration with every default applied, and what deserves a look. */
export type ParsedConfig = { config: Config; warnings: Problem[] };

/**
 * Judges the text of a TOML file or an object of the same shape as `createBalancer()` would, on this host. Starts
 * nothing. `file` is the name that problems of a text are told with; `overrides` win over what it says.
 *
 * @throws ConveyError `CONFIG_INVALID` with every problem, each with its place.
 */
export function parseConfig(
  source: string | ConfigInput,
  { file, overrides = [] }: { file?: string; overrides?: Overrides } = {},
): ParsedConfig {
  return parsed(
    typeof source === "string"
      ? parseConfigText(source, { file, overrides })
      : checkConfig(source, overrides),
  );
}

/**
 * Reads and judges a TOML file as a start would, the token of the HTTP server included. Starts nothing.
 *
 * @throws ConveyError `CONFIG_INVALID` with every problem, also for a file that cannot be read.
 */
export async function loadConfig(
  file: string,
  { overrides = [] }: { overrides?: Overrides } = {},
): Promise<ParsedConfig> {
  return parsed(await loadConfigFile(file, overrides));
}

function parsed(result: LoadResult | ReturnType<typeof checkConfig>): ParsedConfig {
  if (!result.ok) throw invalidConfig(result.problems);
  return { config: result.config, warnings: result.warnings };
}
