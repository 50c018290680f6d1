/** Reads the schema back: which keys a table has, what a value must be, what its default is. */
import { z } from "zod";
import { type KeyPath, oneOf } from "./problem.ts";
import { configSchema, wording } from "./schema.ts";

type Schema = z.core.$ZodType;

/** The schema of a key without defaults and optionality around it. */
export function core(schema: Schema): Schema {
  let inner = schema;
  for (;;) {
    if (wording.get(inner)) return inner;
    if (inner instanceof z.ZodDefault || inner instanceof z.ZodPrefault || inner instanceof z.ZodOptional) {
      inner = inner.def.innerType;
    } else if (inner instanceof z.ZodPipe) {
      inner = inner.def.in;
    } else {
      return inner;
    }
  }
}

/** The schema at a key path, or undefined where there is none. */
export function schemaAt(path: KeyPath): Schema | undefined {
  let schema: Schema = core(configSchema);
  for (const key of path) {
    let next: Schema | undefined;
    if (schema instanceof z.ZodObject) {
      next = Object.hasOwn(schema.shape, key) ? schema.shape[key as string] : undefined;
    } else if (schema instanceof z.ZodRecord) {
      next = schema.valueType as Schema;
    } else if (list(schema)) {
      next = list(schema)?.element as Schema;
    }
    if (next === undefined) return undefined;
    schema = core(next);
  }
  return schema;
}

/** The list that `schema` is or may be, with or without a check of the whole behind it. */
function list(schema: Schema): z.ZodArray | undefined {
  const inner = schema instanceof z.ZodPipe ? schema.def.in : schema;
  if (inner instanceof z.ZodUnion) return inner.options.find((option) => option instanceof z.ZodArray);
  return inner instanceof z.ZodArray ? inner : undefined;
}

/** The keys a table may have, or undefined for what is no table of known keys. */
export function keysOf(schema: Schema | undefined): string[] | undefined {
  return schema instanceof z.ZodObject ? Object.keys(schema.shape) : undefined;
}

/** What must stand at a place, in words: "an integer from 0 to 65535". */
export function expectedAt(schema: Schema): string {
  const inner = core(schema);
  const own = wording.get(inner);
  if (own) return own.expected;
  if (inner instanceof z.ZodNumber) return `an integer from ${inner.minValue} to ${inner.maxValue}`;
  if (inner instanceof z.ZodEnum) return oneOf(inner.options as string[]);
  if (inner instanceof z.ZodString) return "a string";
  return "a table";
}

/** The same as a short type for the reference. */
export function typeOf(schema: Schema): string {
  const inner = core(schema);
  const own = wording.get(inner);
  if (own) return own.type;
  if (inner instanceof z.ZodNumber) return `integer, ${inner.minValue} to ${inner.maxValue}`;
  if (inner instanceof z.ZodEnum) return (inner.options as string[]).map((word) => `"${word}"`).join(", ");
  return inner instanceof z.ZodString ? "string" : "table";
}

interface Table {
  path: string[];
  schema: z.ZodObject;
}

let known: readonly Table[] | undefined;

/** The paths of every table of known keys, names of frontends, backends and servers as `<name>`. */
export function tables(): readonly Table[] {
  if (known === undefined) {
    const found: Table[] = [];
    collectTables([], configSchema, found);
    known = found;
  }
  return known;
}

function collectTables(path: string[], schema: Schema, found: Table[]): void {
  const inner = core(schema);
  if (inner instanceof z.ZodObject) {
    found.push({ path, schema: inner });
    for (const [key, child] of Object.entries(inner.shape)) {
      collectTables([...path, key], child as Schema, found);
    }
  } else if (inner instanceof z.ZodRecord) {
    collectTables([...path, "<name>"], inner.valueType as Schema, found);
  }
}
