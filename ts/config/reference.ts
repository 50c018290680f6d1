/** The reference of all keys as a Markdown table, made from the schema. */
import { z } from "zod";
import { wording } from "./schema.ts";
import { core, tables, typeOf } from "./shape.ts";

/** Markers in samples/README.md between which the table stands. */
export const TABLE_BEGIN = "<!-- config:begin -->";
export const TABLE_END = "<!-- config:end -->";

/** One row a key: key path, type, default, meaning. No newline at the end. */
export function configTable(): string {
  const rows = tables().flatMap(({ path, schema }) =>
    Object.entries(schema.shape).flatMap(([key, child]) => {
      const inner = core(child);
      // Tables have rows of their own, but for those whose keys are the user's and whose values are all.
      const isTable = inner instanceof z.ZodObject || inner instanceof z.ZodRecord;
      if (isTable && wording.get(inner) === undefined) return [];
      const meaning = (child as z.ZodType).description ?? "";
      return [[`\`${[...path, key].join(".")}\``, typeOf(child), defaultOf(child), meaning]];
    }),
  );
  return [["Key", "Type", "Default", "Meaning"], ["---", "---", "---", "---"], ...rows]
    .map((cells) => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`)
    .join("\n");
}

function defaultOf(schema: z.core.$ZodType): string {
  if (schema instanceof z.ZodDefault) return `\`${JSON.stringify(schema.def.defaultValue)}\``;
  return schema instanceof z.ZodOptional ? "none" : "required";
}
