/** `convey validate`: every problem of a configuration at once, without starting anything. */
import type { Command } from "commander";
import { EXIT } from "./exit-codes.ts";
import { addConfigOptions, type ConfigOptions, fileOf, modeOf, overridesOf } from "./options.ts";

interface ValidateOptions extends ConfigOptions {
  json?: true;
  host: boolean;
}

export function validateCommand(program: Command): void {
  const command = program
    .command("validate")
    .description("check a configuration; tells every problem with its line and column, exit 0 or 1")
    .argument("[file]", "configuration file, instead of --config");
  addConfigOptions(command)
    .option("--json", 'print {"ok", "file", "problems"} as JSON')
    .option(
      "--no-host",
      "for another machine: leave out what this one decides, its own addresses and the token",
    )
    .addHelpText(
      "after",
      "\nWhat `convey run` would refuse here is told, all but addresses that are taken and missing privileges.",
    )
    .action(async (operand: string | undefined, options: ValidateOptions) => {
      const file = fileOf(command, operand, options);
      const overrides = overridesOf(options, modeOf(command, options));
      const { host } = options;
      if (options.json) {
        const { loadConfigFile } = await import("../config/load.ts");
        const result = await loadConfigFile(file, overrides, { host });
        const problems = result.ok ? result.warnings : result.problems;
        process.stdout.write(`${JSON.stringify({ ok: result.ok, file, problems }, undefined, 2)}\n`);
        process.exitCode = result.ok ? EXIT.ok : EXIT.failure;
        return;
      }
      const { loadOrExplain } = await import("./load.ts");
      const loaded = await loadOrExplain(file, overrides, { host });
      if (loaded === undefined) {
        process.exitCode = EXIT.failure;
        return;
      }
      const { summary } = await import("../config/print.ts");
      const { inert } = await import("../config/problem.ts");
      process.stdout.write(`${inert(file)}: valid: ${summary(loaded.config)}\n`);
    });
}
