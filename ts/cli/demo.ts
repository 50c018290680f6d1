/** `convey demo`: a whole balancer to look at, with servers of its own. */
import type { Command } from "commander";
import { integer, refuseOperands } from "./options.ts";

/** What the options of `demo` say. */
export interface DemoOptions {
  port: number;
  statsPort: number;
  traffic: number;
  chaos?: true;
}

export function demoCommand(program: Command): Command {
  const command = program
    .command("demo")
    .description("run an example: three servers, a frontend, health checks, statistics");
  return command
    .option("--port <port>", "where the frontend listens; the next free port when it is taken", port, 8080)
    .option(
      "--stats-port <port>",
      "where statistics are served; the next free port when it is taken",
      port,
      7000,
    )
    .option(
      "--traffic <n>",
      "connections a second that a built-in client opens",
      (value) => integer(value, 1000),
      0,
    )
    .option("--chaos", "switch one server off for five seconds, every ten seconds")
    .allowExcessArguments()
    .action(async (options: DemoOptions) => {
      refuseOperands(command);
      const { runDemo } = await import("./demo-run.ts");
      await runDemo(options);
    });
}

const port = (value: string): number => integer(value, 65535);
