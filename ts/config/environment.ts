/**
 * Values from the environment in the strings of a file: `"${NAME}"`, `"${NAME:-default}"`, and `$${` for a literal `${`.
 * What a variable holds is taken as it is: nothing in it is looked for again. A string that is one reference and nothing
 * else is read as the number or boolean that its key wants.
 */
import { z } from "zod";
import type { Finding, KeyPath } from "./problem.ts";
import { quote } from "./problem.ts";
import { schemaAt } from "./shape.ts";
import { error, isTable } from "./view.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

export interface Expanded {
  input: Record<string, unknown>;
  /** Values that could not be had; their keys are missing in `input`. */
  findings: Finding[];
  /** What stands in the file, by `keyOf()` of the path, where something else is in `input`. */
  written: Map<string, string>;
  /** Names of the variables that are referred to. */
  variables: Set<string>;
}

const REFERENCE = /\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?/g;
const WHOLE = /^\$\{[A-Za-z_][A-Za-z0-9_]*(?::-[^}]*)?\}$/;

export const keyOf = (path: KeyPath): string => path.join("\0");

/** A copy of `input` with the references in its strings replaced; keys and what is no string stay as they are. */
export function expandEnvironment(input: Record<string, unknown>, env: Environment): Expanded {
  const findings: Finding[] = [];
  const written = new Map<string, string>();
  const variables = new Set<string>();

  function visit(value: unknown, at: KeyPath): unknown {
    if (typeof value === "string") return value.includes("${") ? text(value, at) : value;
    if (Array.isArray(value)) return value.map((item, index) => visit(item, [...at, index]));
    if (!isTable(value) || value instanceof Date) return value;
    const copy: Record<string, unknown> = {};
    for (const [key, child] of Object.entries(value)) {
      const now = visit(child, [...at, key]);
      // A plain assignment to this one name would change the object's prototype.
      Object.defineProperty(copy, key, { value: now, enumerable: true, writable: true, configurable: true });
    }
    return copy;
  }

  function text(value: string, at: KeyPath): unknown {
    const missing = new Set<string>();
    let malformed = false;
    const expanded = value.replace(REFERENCE, (found, name: string | undefined, otherwise?: string) => {
      if (found === "$${") return "${";
      if (name === undefined) {
        malformed = true;
        return found;
      }
      variables.add(name);
      const set = Object.hasOwn(env, name) ? env[name] : undefined;
      if (otherwise !== undefined) return set === undefined || set === "" ? otherwise : set;
      if (set === undefined) missing.add(name);
      return set ?? "";
    });
    written.set(keyOf(at), value);
    if (malformed) {
      findings.push(
        error(at, "value", `has \${ without the name of a variable and a } behind it`, {
          found: quote(value),
          expected: `"\${NAME}" or "\${NAME:-default}", or "$\${" for the two characters`,
        }),
      );
    }
    for (const name of missing) {
      findings.push(
        error(at, "value", `needs the environment variable ${name}, which is not set`, {
          found: quote(value),
          expected: `${name} in the environment, or a default as in "\${${name}:-value}"`,
        }),
      );
    }
    if (malformed || missing.size > 0) return undefined;
    return WHOLE.test(value) ? asWanted(expanded, at) : expanded;
  }

  return { input: visit(input, []) as Record<string, unknown>, findings, written, variables };
}

/** The text as the number or boolean that is wanted at `at`, where it is one. */
function asWanted(text: string, at: KeyPath): unknown {
  const schema = schemaAt(at);
  if (schema === undefined) return text;
  const wanted = kinds(schema);
  if (wanted.has("boolean") && (text === "true" || text === "false")) return text === "true";
  if (wanted.has("number") && /^[+-]?\d{1,15}(\.\d{1,15})?$/.test(text)) return Number(text);
  return text;
}

/** Of "number" and "boolean" what a value of `schema` may be. */
function kinds(schema: z.core.$ZodType): Set<"number" | "boolean"> {
  const found = new Set<"number" | "boolean">();
  const open = [schema];
  for (let inner = open.pop(); inner !== undefined; inner = open.pop()) {
    if (inner instanceof z.ZodNumber) found.add("number");
    else if (inner instanceof z.ZodBoolean) found.add("boolean");
    else if (inner instanceof z.ZodUnion) open.push(...(inner.options as z.core.$ZodType[]));
    else if (inner instanceof z.ZodPipe) open.push(inner.def.in);
    else if (
      inner instanceof z.ZodDefault ||
      inner instanceof z.ZodPrefault ||
      inner instanceof z.ZodOptional
    ) {
      open.push(inner.def.innerType);
    }
  }
  return found;
}

/**
 * Findings as a reader of the file understands them: nothing further is said of a value that could not be had, and
 * one that came from the environment is told with what stands in the file.
 */
export function tellExpanded(
  findings: readonly Finding[],
  { findings: own, written }: Pick<Expanded, "findings" | "written">,
): Finding[] {
  const unknown = new Set(own.map(({ at }) => keyOf(at)));
  const isUnknown = (at: KeyPath): boolean => at.some((_, n) => unknown.has(keyOf(at.slice(0, n + 1))));
  return findings
    .filter(({ at }) => unknown.size === 0 || !isUnknown(at))
    .map((finding) => {
      const text = written.get(keyOf(finding.at));
      if (text === undefined || finding.found === undefined || finding.point !== "value") return finding;
      return { ...finding, found: `${finding.found} from ${quote(text)}` };
    });
}
