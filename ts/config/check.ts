/** Judges a configuration given as an object: schema, defaults and rules, all problems at once. */
import { TWINS } from "./health-check-table.ts";
import { type HostFacts, hereFacts } from "./host.ts";
import { findingsOf } from "./issues.ts";
import { applyOverrides, type Overrides, originOf } from "./overrides.ts";
import { type Finding, formatPath, type Problem } from "./problem.ts";
import { checkRules } from "./rules.ts";
import { type Config, configSchema } from "./schema.ts";

export type CheckResult =
  | { ok: true; config: Config; warnings: Problem[] }
  /** Errors and warnings, errors first. */
  | { ok: false; problems: Problem[] };

/**
 * Checks what a program hands over, against this host's addresses too; nothing it passes in makes this throw.
 * The token of the HTTP server is not looked for.
 */
export function checkConfig(input: unknown, overrides: Overrides = []): CheckResult {
  const judged = judge(input, overrides, hereFacts());
  const problems = judged.findings.map((finding) => problemOf(finding, originOf(finding, overrides, input)));
  return judged.config ? { ok: true, config: judged.config, warnings: problems } : { ok: false, problems };
}

/** A finding without a place in a file. */
export function problemOf(finding: Finding, origin?: string): Problem {
  const { at, point: _, ...rest } = finding;
  return { ...rest, path: formatPath(at), ...(origin === undefined ? {} : { origin }) };
}

/** The verdict with findings still to be placed; `config` is there when none of them is an error. */
export function judge(
  input: unknown,
  overrides: Overrides,
  host: HostFacts,
): { config?: Config; findings: Finding[] } {
  const plain = applyOverrides(plainCopy(input, 0), overrides);
  const result = configSchema.safeParse(plain);
  const rules = checkRules(plain, host);
  const findings = [...(result.success ? [] : findingsOf(result.error.issues, plain)), ...rules];
  findings.sort((a, b) => Number(a.severity === "warning") - Number(b.severity === "warning"));
  if (!result.success || rules.some(({ severity }) => severity === "error")) return { findings };
  return { config: withoutOverruled(result.data), findings };
}

/**
 * Where the table of checks says something, the default of the flat key that says the same is none: a configuration is
 * to be accepted again as it is shown.
 */
function withoutOverruled(config: Config): Config {
  for (const backend of Object.values(config.backends)) {
    for (const [key, flat] of Object.entries(TWINS)) {
      const own = backend.health_check?.[key as keyof typeof TWINS];
      // Nobody reads it then: `checkSettings()` asks the table first.
      if (own !== undefined) delete (backend as Partial<typeof backend>)[flat];
    }
  }
  return config;
}

/** Deeper than any key of ours, so that cyclic objects end. */
const MAX_DEPTH = 8;

/**
 * Tables and arrays as they are, anything else that is an object (a date, a Map, a class instance) as a
 * symbol: zod would take such an object for an empty table, while it takes a symbol for nothing.
 */
export function plainCopy(value: unknown, depth: number): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (value instanceof Date) return Symbol("a date or time");
  if (Array.isArray(value)) return depth < MAX_DEPTH ? value.map((item) => plainCopy(item, depth + 1)) : [];
  const prototype = Object.getPrototypeOf(value);
  if (prototype !== null && Object.getPrototypeOf(prototype) !== null)
    return Symbol("an object that is not plain");
  const copy = Object.create(null) as Record<string, unknown>;
  if (depth >= MAX_DEPTH) return copy;
  for (const [key, child] of Object.entries(value)) copy[key] = plainCopy(child, depth + 1);
  return copy;
}
