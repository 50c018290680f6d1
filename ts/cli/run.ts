/** `convey run`, which is also `convey` alone: serves until a signal ends it. */
import type { Command } from "commander";
import { ENVIRONMENT_VARIABLES } from "../config/overrides.ts";
import {
  addConfigOptions,
  type ConfigOptions,
  integer,
  modeOf,
  overridesOf,
  refuseOperands,
} from "./options.ts";

export function runCommand(program: Command): Command {
  const command = program
    .command("run", { isDefault: true })
    .description("balance connections until a signal ends it");
  return addConfigOptions(command)
    .option(
      "--drain-timeout-ms <ms>",
      "milliseconds that open connections get to end after SIGTERM or SIGINT",
      (value) => integer(value, 86_400_000),
    )
    .addHelpText(
      "after",
      "\nSignals: SIGTERM and SIGINT take no new connections and wait for the open ones; a second one cuts them.\n" +
        "SIGHUP reads the configuration again; so does saving the file.\n\n" +
        `Environment: ${ENVIRONMENT_VARIABLES.join(", ")}.\n` +
        "They win over the file; flags win over them.",
    )
    .allowExcessArguments()
    .action(async (options: ConfigOptions) => {
      refuseOperands(command);
      const overrides = overridesOf(options, modeOf(command, options));
      const { serve } = await import("./serve.ts");
      process.exit(await serve(options.config, overrides));
    });
}
