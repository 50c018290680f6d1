/** `convey healthcheck`: asks the running Convey, for containers and service managers. */
import type { Command } from "commander";
import { EXIT } from "./exit-codes.ts";
import {
  addConfigOptions,
  type ConfigOptions,
  integer,
  modeOf,
  overridesOf,
  refuseOperands,
} from "./options.ts";

interface HealthcheckOptions extends ConfigOptions {
  timeout: number;
}

export function healthcheckCommand(program: Command): Command {
  const command = program
    .command("healthcheck")
    .description("ask the running one whether it is healthy; exit 0 or 1");
  return addConfigOptions(command)
    .option(
      "--timeout <ms>",
      "milliseconds to wait for the answer",
      (value) => integer(value, 86_400_000),
      2000,
    )
    .addHelpText(
      "after",
      "\nThe process that runs the file is asked by its socket, whatever the file says by now. Where there is\n" +
        "none for this user, or with --stats-port, the HTTP server of [stats] is asked.",
    )
    .allowExcessArguments()
    .action(async (options: HealthcheckOptions) => {
      refuseOperands(command);
      const { askRunning } = await import("./client.ts");
      const reply = await askRunning(
        options.config,
        overridesOf(options, modeOf(command, options)),
        { path: "/healthz", timeoutMs: options.timeout, token: false },
        { named: options.statsPort !== undefined },
      );
      if (reply.ok && reply.status === 200) {
        process.stdout.write("healthy\n");
        process.exitCode = EXIT.ok;
        return;
      }
      const cause = reply.ok ? `${reply.by}: HTTP status ${reply.status}` : reply.text;
      process.stderr.write(`unhealthy: ${cause}\n`);
      process.exitCode = EXIT.failure;
    });
}
