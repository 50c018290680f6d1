/** The schema for editors: JSON Schema, draft 7, which TOML language servers read. */
import { z } from "zod";
import { configSchema, frontendSchema, wording } from "./schema.ts";

/** The name that the samples' `#:schema` lines point to, beside them. */
export const SCHEMA_FILE = "convey.schema.json";

/** A JSON Schema of what may be written: units and defaults are in the descriptions, which editors show. */
export function jsonSchema(): object {
  const schema = z.toJSONSchema(configSchema, {
    io: "input",
    target: "draft-7",
    override: ({ zodSchema, jsonSchema }) => {
      const words = wording.get(zodSchema);
      if (words?.pattern !== undefined) jsonSchema.pattern = words.pattern;
      const described = jsonSchema.description;
      if (
        jsonSchema.default !== undefined &&
        typeof jsonSchema.default !== "object" &&
        described !== undefined
      ) {
        jsonSchema.description = `${described} Default: ${JSON.stringify(jsonSchema.default)}.`;
      }
      if (zodSchema === frontendSchema) {
        jsonSchema.oneOf = [{ required: ["listen"] }, { required: ["listen_addr"] }];
      }
      if (described?.startsWith("Deprecated")) jsonSchema.deprecated = true;
    },
  });
  return { ...schema, title: "Convey configuration" };
}
