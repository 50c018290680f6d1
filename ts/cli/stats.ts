/** `convey stats`: what the running one has counted, as tables, as JSON or as a table that goes on. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Command, Option } from "commander";
import type { Stats } from "../control/stats.ts";
import { EXIT } from "./exit-codes.ts";
import { addConfigOptions, type ConfigOptions, modeOf, overridesOf, refuseOperands } from "./options.ts";

interface StatsOptions extends ConfigOptions {
  watch?: true;
  rate?: true;
  json?: true;
}

const TIMEOUT_MS = 5000;
/** Between two readings of a rate, and two pictures of the watch. */
const PERIOD_MS = 1000;

/** One reading, and when it was made on this process's clock. */
export type Reading = { stats: Stats; at: number };

export function statsCommand(program: Command): void {
  const command = program
    .command("stats")
    .description("show connections, bytes and the state of every server of the running one");
  addConfigOptions(command)
    .option("--rate", "show what happens in a second, too; takes one")
    .option("--watch", "go on, once a second, until q or Ctrl-C; arrows scroll")
    .addOption(new Option("--json", "print what /stats answers").conflicts(["rate", "watch"]))
    .addHelpText(
      "after",
      "\nThe process that runs the file is asked by its socket; where there is none for this user, or with\n" +
        "--stats-port, the HTTP server of [stats], with its token file or CONVEY_STATS_TOKEN.",
    )
    .allowExcessArguments()
    .action(async (options: StatsOptions) => {
      refuseOperands(command);
      const read = await reader(command, options);
      if (options.watch) {
        const { watch } = await import("./stats-watch.ts");
        process.exitCode = await watch(read, PERIOD_MS);
        return;
      }
      const first = await read();
      if (options.json) {
        process.stdout.write(`${JSON.stringify(first.stats, undefined, 2)}\n`);
        return;
      }
      const { report } = await import("./stats-report.ts");
      const before = options.rate ? first : undefined;
      if (before !== undefined) await sleep(PERIOD_MS);
      const now = before === undefined ? first : await read();
      process.stdout.write(`${report(now, before).join("\n")}\n`);
      process.exitCode = EXIT.ok;
    });
}

/** Asks the running one; each call throws a ConveyError when it does not answer. */
async function reader(command: Command, options: StatsOptions): Promise<() => Promise<Reading>> {
  const [{ askRunning }, { ConveyError }] = await Promise.all([
    import("./client.ts"),
    import("../native/index.ts"),
  ]);
  const overrides = overridesOf(options, modeOf(command, options));
  const question = { path: "/stats", timeoutMs: TIMEOUT_MS, token: true };
  return async () => {
    const named = options.statsPort !== undefined;
    const reply = await askRunning(options.config, overrides, question, { named });
    if (!reply.ok) throw new ConveyError("UNREACHABLE", `cannot ask the running convey: ${reply.text}`);
    if (reply.status !== 200) {
      throw new ConveyError("UNREACHABLE", `${reply.by} answers with HTTP status ${reply.status}`);
    }
    return { stats: JSON.parse(reply.body) as Stats, at: performance.now() };
  };
}
