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
        const input = file === undefined ? {} : { query: { file }, text: await tomlOf(file) };
        const plan = await call(options, "post", "/api/v1/plan", input, { patient: true });
        if (!plan.ok) process.exitCode = EXIT.failure;
        if (options.json) return printJson(plan);
        const { problems } = plan as Plan;
        if (problems.length > 0) process.stderr.write(`${formatProblems(problems)}\n`);
        printLines(describePlan({ ...(plan as Plan), problems: [] }));
      });
    });
}

async function tomlOf(file: string): Promise<{ type: string; text: string }> {
  const [{ readSmallFile }, { MAX_FILE_BYTES }, { ConveyError }] = await Promise.all([
    import("../config/read.ts"),
    import("../config/load.ts"),
    import("../native/index.ts"),
  ]);
  try {
    const { bytes } = await readSmallFile(file, MAX_FILE_BYTES, { anything: true });
    return { type: "application/toml", text: bytes.toString("utf8") };
  } catch (error) {
    throw new ConveyError("NOT_FOUND", `${file}: cannot be read: ${(error as Error).message}`);
  }
}
