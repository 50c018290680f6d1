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
import { signals } from "./signals.ts";

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
    .option("--dry-run", "print what a start would change on this host, as commands; change nothing")
    .addHelpText(
      "after",
      "\nSignals: SIGTERM and SIGINT take no new connections and wait for the open ones; a second one cuts them.\n" +
        "SIGHUP reads the configuration again; so does saving the file. Closing the terminal is as SIGTERM.\n" +
        "SIGUSR1 opens log.connections_file again, after it was moved away.\n\n" +
        `Environment: CONVEY_CONFIG, ${ENVIRONMENT_VARIABLES.join(", ")}.\n` +
        "They win over the file; flags win over them.\n" +
        "CONVEY_STATE_DIR names where passthrough and dsr remember what to undo, instead of /run/convey;\n" +
        "CONVEY_BPFFS a BPF file system for what engines in the kernel forward by, instead of /sys/fs/bpf.",
    )
    .allowExcessArguments()
    .action(async (options: ConfigOptions & { dryRun?: true }) => {
      refuseOperands(command);
      const overrides = overridesOf(options, modeOf(command, options));
      if (options.dryRun) {
        signals().release();
        const { dryRun } = await import("./dry-run.ts");
        process.exitCode = await dryRun(options.config, overrides);
        return;
      }
      const { serve } = await import("./serve.ts");
      await serve(options.config, overrides);
    });
}
