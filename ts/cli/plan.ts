/** `convey plan`: what a reload would change, told by the running balancer; nothing is changed. */
import type { Command } from "commander";
import type { Plan } from "../control/plan.ts";
import { EXIT } from "./exit-codes.ts";
import { addRunningOptions, printJson, printLines, type RunningOptions, tellErrors } from "./running.ts";

export function planCommand(program: Command): void {
  const command = program
    .command("plan")
    .description(
      "tell what a reload of the running one would change: servers, shares of traffic, open connections",
    )
    .argument("[file]", "configuration to plan with, instead of the one that the running one would read");
  addRunningOptions(
    command,
    'print {"ok", "problems", "changes", "restart_needed", "slots", "frontends", "servers"}',
  )
    .addHelpText("after", "\nExit 1 when a reload would refuse the configuration.")
    .action(async (file: string | undefined, options: RunningOptions) => {
      await tellErrors(options.json, async () => {
        const [{ call }, { describePlan }, { formatProblems }] = await Promise.all([
          import("./api.ts"),
          import("../control/plan.ts"),
          import("../config/diagnostics.ts"),
        ]);
        const input = file === undefined ? {} : await tomlOf(file);
        const plan = await call(options, "post", "/api/v1/plan", input, { patient: true });
        if (!plan.ok) process.exitCode = EXIT.failure;
        if (options.json) return printJson(plan);
        const { problems } = plan as Plan;
        if (problems.length > 0) process.stderr.write(`${formatProblems(problems)}\n`);
        printLines(describePlan({ ...(plan as Plan), problems: [] }));
      });
    });
}

type Body = { query: { file: string }; text: { type: string; text: string } };

async function tomlOf(file: string): Promise<Body> {
  const [{ readFile }, { gather }, { stringify }, { ConveyError }] = await Promise.all([
    import("../config/source-file.ts"),
    import("../config/gather.ts"),
    import("smol-toml"),
    import("../native/index.ts"),
  ]);
  const read = await readFile(file, { anything: true }, process.env);
  const type = "application/toml";
  if (!read.ok) {
    // The running one says what is wrong with a text, and where.
    if (read.text !== undefined) return { query: { file }, text: { type, text: read.text } };
    throw new ConveyError("NOT_FOUND", `${file}: ${read.problem.message}`);
  }
  const { entries, raw, findings, problems } = await gather(read.file, process.env, undefined);
  if (entries.length === 0) return { query: { file }, text: { type, text: read.file.text } };
  // The files of this machine are read here; what their variables hold is known where the service runs.
  if (raw === undefined || problems.length > 0 || [...findings.values()].some((of) => of.length > 0)) {
    const { loadConfigFile } = await import("../config/load.ts");
    const { formatProblems } = await import("../config/diagnostics.ts");
    const loaded = await loadConfigFile(file, [], { host: false });
    throw new ConveyError("CONFIG_INVALID", formatProblems(loaded.ok ? [] : loaded.problems));
  }
  return { query: { file: `${file} put together` }, text: { type, text: stringify(raw) } };
}
