/** Configurations for programs: judged, with every default applied, or one error with everything that is wrong. */
import { checkConfig } from "../config/check.ts";
import type { Environment } from "../config/environment.ts";
import { type LoadResult, loadConfigFile, parseConfigText } from "../config/load.ts";
import type { Overrides } from "../config/overrides.ts";
import type { Problem } from "../config/problem.ts";
import type { Config, ConfigInput } from "../config/schema.ts";
import { invalidConfig } from "./invalid-config.ts";

/** A configuration with every default applied, and what deserves a look. */
export type ParsedConfig = { config: Config; warnings: Problem[] };

/**
 * Judges the text of a TOML file or an object of the same shape as `createBalancer()` would, on this host. Starts
 * nothing. `file` is the name that problems of a text are told with; `overrides` win over what it says; `env` is what
 * `${NAME}` in a text stands for, this process's environment unless given. An object is taken as it is. `include` is for
 * files: see `loadConfig()`.
 *
 * @throws ConveyError `CONFIG_INVALID` with every problem, each with its place.
 */
export function parseConfig(
  source: string | ConfigInput,
  { file, overrides = [], env }: { file?: string; overrides?: Overrides; env?: Environment } = {},
): ParsedConfig {
  return parsed(
    typeof source === "string"
      ? parseConfigText(source, { file, overrides, env })
      : checkConfig(source, overrides),
  );
}

/**
 * Reads and judges a TOML file and those it includes as a start would, the token of the HTTP server included, with
 * `${NAME}` from `env`, this process's environment unless given. Starts nothing.
 *
 * @throws ConveyError `CONFIG_INVALID` with every problem, also for a file that cannot be read.
 */
export async function loadConfig(
  file: string,
  { overrides = [], env = process.env }: { overrides?: Overrides; env?: Environment } = {},
): Promise<ParsedConfig> {
  return parsed(await loadConfigFile(file, overrides, { env }));
}

function parsed(result: LoadResult | ReturnType<typeof checkConfig>): ParsedConfig {
  if (!result.ok) throw invalidConfig(result.problems);
  return { config: result.config, warnings: result.warnings };
}
