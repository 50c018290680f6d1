/** `convey reload`: the running balancer reads its file again, for good or on trial. */
import type { Command } from "commander";
import { refuseOperands } from "./options.ts";
import {
  addRunningOptions,
  duration,
  printJson,
  printLines,
  type RunningOptions,
  tellErrors,
} from "./running.ts";

type ReloadOptions = RunningOptions & { confirm?: number; confirmed?: true };

export function reloadCommand(program: Command): void {
  const command = program
    .command("reload")
    .description("have the running one read its file again; tells what changed")
    .option(
      "--confirm <time>",
      "on trial: rolled back unless `convey reload --confirmed` comes in time",
      duration,
    )
    .option("--confirmed", "keep what is on trial")
    .allowExcessArguments();
  addRunningOptions(command, 'print {"result", "message", "changes", "warnings", "confirm_by"?}').action(
    async (options: ReloadOptions) => {
      refuseOperands(command);
      if (options.confirm !== undefined && options.confirmed) {
        command.error(
          "error: --confirm and --confirmed were both given; the first begins a trial, the second ends it",
        );
      }
      if (options.confirm === 0) command.error("error: --confirm needs at least 1ms");
      await tellErrors(options.json, () => reload(options));
    },
  );
}

async function reload(options: ReloadOptions): Promise<void> {
  const [{ call }, { describeChange }, { formatProblem }] = await Promise.all([
    import("./api.ts"),
    import("../control/diff.ts"),
    import("../config/diagnostics.ts"),
  ]);
  const done = options.confirmed
    ? await call(options, "post", "/api/v1/reload/confirm", {}, { patient: true })
    : await call(
        options,
        "post",
        "/api/v1/reload",
        { json: options.confirm === undefined ? {} : { confirm_ms: options.confirm } },
        { patient: true },
      );
  if (options.json) return printJson(done);
  for (const warning of done.warnings) process.stderr.write(`${formatProblem(warning as never)}\n`);
  printLines(
    done.changes.length > 0 && !options.confirmed
      ? done.changes.map((change) => describeChange(change as never))
      : [done.message],
  );
  if (done.confirm_by !== undefined && !options.confirmed) {
    const command = `convey reload --confirmed${options.config === "./config.toml" ? "" : ` -c ${options.config}`}`;
    printLines([`rolled back at ${done.confirm_by} unless confirmed: ${command}`]);
  }
}
