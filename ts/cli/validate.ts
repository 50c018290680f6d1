/** `convey validate`: every problem of a configuration at once, without starting anything. */
import type { Command } from "commander";
import type { Config } from "../config/schema.ts";
import { fileOf } from "./config-file.ts";
import { EXIT } from "./exit-codes.ts";
import { addConfigOptions, type ConfigOptions, modeOf, overridesOf } from "./options.ts";

interface ValidateOptions extends ConfigOptions {
  json?: true;
}

export function validateCommand(program: Command): void {
  const command = program
    .command("validate")
    .description("check a configuration; tells every problem with its line and column, exit 0 or 1")
    .argument("[file]", "configuration file, instead of --config");
  addConfigOptions(command)
    .option("--json", 'print {"ok", "file", "problems", "host"} as JSON')
    .action(async (operand: string | undefined, options: ValidateOptions) => {
      const file = fileOf(command, operand, options);
      const overrides = overridesOf(options, modeOf(command, options));
      if (options.json) {
        const { loadConfigFile } = await import("../config/load.ts");
        const result = await loadConfigFile(file, overrides);
        const problems = result.ok ? result.warnings : result.problems;
        const isPacketMode = result.ok && result.config.mode !== "proxy";
        const host = isPacketMode ? await hostProblems(result.config) : undefined;
        process.stdout.write(`${JSON.stringify({ ok: result.ok, file, problems, host }, undefined, 2)}\n`);
        process.exitCode = result.ok ? EXIT.ok : EXIT.failure;
        return;
      }
      const { loadOrExplain } = await import("./load.ts");
      const loaded = await loadOrExplain(file, overrides);
      if (loaded === undefined) {
        process.exitCode = EXIT.failure;
        return;
      }
      const { summary } = await import("../config/print.ts");
      const { inert } = await import("../config/problem.ts");
      for (const problem of await hostProblems(loaded.config)) {
        process.stderr.write(`${inert(file)}: on this host: ${inert(problem)}\n`);
      }
      process.stdout.write(`${inert(file)}: valid: ${summary(loaded.config)}\n`);
    });
}

/** What the data plane would say on this host; it may be meant for another one, so nothing here is an error. */
async function hostProblems(config: Config): Promise<string[]> {
  if (config.mode === "proxy") return [];
  try {
    const { loadDataplane } = await import("../native/index.ts");
    const { lower } = await import("../config/lower.ts");
    return (await loadDataplane()).hostProblems(lower(config));
  } catch (error) {
    return [error instanceof Error ? error.message : String(error)];
  }
}
