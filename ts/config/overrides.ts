/** Settings from outside the file. The order is: defaults < file < `CONVEY_*` < flags. */
import type { Finding, KeyPath } from "./problem.ts";

/** One setting that replaces what the file says. */
export interface Override {
  path: KeyPath;
  value: unknown;
  /** Named in problems: `CONVEY_MODE`, `--mode`. */
  origin: string;
}

/** Later ones win. */
export type Overrides = readonly Override[];

interface Setting {
  path: KeyPath;
  variable: string;
  integer?: true;
}

const SETTINGS: readonly Setting[] = [
  { variable: "CONVEY_MODE", path: ["mode"] },
  { variable: "CONVEY_ENGINE", path: ["engine"] },
  { variable: "CONVEY_STATS_PORT", path: ["stats", "port"] },
  { variable: "CONVEY_STATS_BIND", path: ["stats", "bind"] },
  { variable: "CONVEY_LOG_LEVEL", path: ["log", "level"] },
  { variable: "CONVEY_DRAIN_TIMEOUT_MS", path: ["shutdown", "drain_timeout_ms"], integer: true },
];

/** The variables that are read, for help texts. */
export const ENVIRONMENT_VARIABLES: readonly string[] = SETTINGS.map(({ variable }) => variable);

/** What the environment sets; an empty variable counts as not set. */
export function environmentOverrides(env: Readonly<Record<string, string | undefined>>): Override[] {
  return SETTINGS.flatMap(({ variable, path, integer }) => {
    const text = env[variable];
    if (text === undefined || text === "") return [];
    return [{ path, origin: variable, value: integer ? numberFrom(text) : text }];
  });
}

/** What flags set; `undefined` for a flag that was not given. */
export interface FlagValues {
  mode?: string | undefined;
  engine?: string | undefined;
  statsPort?: string | number | undefined;
  statsBind?: string | undefined;
  logLevel?: string | undefined;
  drainTimeoutMs?: string | number | undefined;
}

const FLAGS: readonly { flag: string; name: keyof FlagValues; path: KeyPath }[] = [
  { flag: "--mode", name: "mode", path: ["mode"] },
  { flag: "--engine", name: "engine", path: ["engine"] },
  { flag: "--stats-port", name: "statsPort", path: ["stats", "port"] },
  { flag: "--stats-bind", name: "statsBind", path: ["stats", "bind"] },
  { flag: "--log-level", name: "logLevel", path: ["log", "level"] },
  { flag: "--drain-timeout-ms", name: "drainTimeoutMs", path: ["shutdown", "drain_timeout_ms"] },
];

export function flagOverrides(values: FlagValues): Override[] {
  return FLAGS.flatMap(({ flag, name, path }) => {
    const value = values[name];
    if (value === undefined) return [];
    return [
      {
        path,
        origin: flag,
        value: name === "drainTimeoutMs" && typeof value === "string" ? numberFrom(value) : value,
      },
    ];
  });
}

const numberFrom = (text: string): unknown => (/^\d{1,15}$/.test(text) ? Number(text) : text);

type Table = Record<string, unknown>;

/**
 * A copy of `input` with the overrides in place. Where the input has something else than a table on an
 * override's way, it stays: its own problem will be told.
 */
export function applyOverrides(input: unknown, overrides: Overrides): unknown {
  if (!isTable(input)) return input;
  let result: Table = input;
  for (const { path, value } of overrides) result = withValue(result, path, value);
  return result;
}

function withValue(table: Table, [key, ...rest]: KeyPath, value: unknown): Table {
  if (key === undefined) return table;
  if (rest.length === 0) return { ...table, [key]: value };
  const child = Object.hasOwn(table, key) ? table[key] : {};
  return isTable(child) ? { ...table, [key]: withValue(child, rest, value) } : table;
}

/**
 * Where a finding came from when not from the file: the override that set the value, or the one that made
 * the table in which something is missing.
 */
export function originOf(finding: Finding, overrides: Overrides, file: unknown): string | undefined {
  const at = finding.at.join("\0");
  const own = overrides.findLast(({ path }) => path.join("\0") === at);
  if (own) return own.origin;
  if (finding.point !== "table" || finding.at.length < 2) return undefined;
  const parent = String(finding.at[0]);
  if (isTable(file) && Object.hasOwn(file, parent)) return undefined;
  return overrides.findLast(({ path }) => path.length > 1 && path[0] === parent)?.origin;
}

function isTable(value: unknown): value is Table {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
