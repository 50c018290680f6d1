/** `convey schema`: the description of every key, for editors or for the reference. */
import type { Command } from "commander";

export function schemaCommand(program: Command): void {
  program
    .command("schema")
    .description("print the JSON Schema of the configuration, for editors")
    .option("--markdown", "print the reference of all keys as a Markdown table instead")
    .addHelpText(
      "after",
      "\nUse it in an editor that understands TOML schemas:\n" +
        "  convey schema > convey.schema.json\n" +
        "  and as the first line of the configuration: #:schema ./convey.schema.json",
    )
    .action(async (options: { markdown?: true }) => {
      if (options.markdown) {
        const { configTable } = await import("../config/reference.ts");
        process.stdout.write(`${configTable()}\n`);
        return;
      }
      const { jsonSchema } = await import("../config/json-schema.ts");
      process.stdout.write(`${JSON.stringify(jsonSchema(), undefined, 2)}\n`);
    });
}
