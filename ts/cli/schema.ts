/** `convey schema`: the description of every key, for editors or for the reference, and that of the HTTP API. */
import type { Command } from "commander";

export function schemaCommand(program: Command): void {
  program
    .command("schema")
    .description("print the JSON Schema of the configuration, for editors")
    .option("--markdown", "print the reference of all keys as a Markdown table instead")
    .option("--openapi", "print the OpenAPI document of the HTTP server instead")
    .addHelpText(
      "after",
      "\nUse it in an editor that understands TOML schemas:\n" +
        "  convey schema > convey.schema.json\n" +
        "  and as the first line of the configuration: #:schema ./convey.schema.json",
    )
    .action(async (options: { markdown?: true; openapi?: true }) => {
      if (options.openapi) {
        const { openapiDocument } = await import("../http/document.ts");
        process.stdout.write(`${JSON.stringify(openapiDocument(), undefined, 2)}\n`);
        return;
      }
      if (options.markdown) {
        const { configTable } = await import("../config/reference.ts");
        process.stdout.write(`${configTable()}\n`);
        return;
      }
      const { jsonSchema } = await import("../config/json-schema.ts");
      process.stdout.write(`${JSON.stringify(jsonSchema(), undefined, 2)}\n`);
    });
}
