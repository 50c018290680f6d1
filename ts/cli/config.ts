/** `convey config`: what a configuration means once defaults, environment and flags are applied. */
import type { Command } from "commander";
import { EXIT } from "./exit-codes.ts";
import { addConfigOptions, type ConfigOptions, fileOf, modeOf, overridesOf } from "./options.ts";

interface ShowOptions extends ConfigOptions {
  json?: true;
}

export function configCommand(program: Command): void {
  const command = program
    .command("config")
    .description("print the configuration with every default, as TOML")
    .argument("[file]", "configuration file, instead of --config");
  addConfigOptions(command)
    .option("--json", "print JSON instead of TOML")
    .action(async (operand: string | undefined, options: ShowOptions) => {
      const file = fileOf(command, operand, options);
      const { loadOrExplain } = await import("./load.ts");
      const overrides = overridesOf(options, modeOf(command, options));
      const loaded = await loadOrExplain(file, overrides);
      if (loaded === undefined) {
        process.exitCode = EXIT.failure;
        return;
      }
      const { toToml } = await import("../config/print.ts");
      const { config } = loaded;
      process.stdout.write(options.json ? `${JSON.stringify(config, undefined, 2)}\n` : toToml(config));
    });
}
