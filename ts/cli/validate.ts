/** `convey validate`: every problem of a configuration at once, without starting anything. */
import type { Command } from "commander";
import type { Config } from "../config/schema.ts";
import { EXIT } from "./exit-codes.ts";
import { addConfigOptions, type ConfigOptions, fileOf, modeOf, overridesOf } from "./options.ts";

interface ValidateOptions extends ConfigOptions {
  json?: true;
  host: boolean;
}

export function validateCommand(program: Command): void {
  const command = program
    .command("validate")
    .description("check a configuration; tells every problem with its line and column, exit 0 or 1")
    .argument("[file]", "configuration file, instead of --config");
  addConfigOptions(command)
    .option("--json", 'print {"ok", "file", "problems", "host"} as JSON')
    .option(
      "--no-host",
      "for another machine: leave out what this one decides, its own addresses and the token",
    )
    .addHelpText(
      "after",
      "\nWhat `convey run` would refuse here is told, all but addresses that are taken and missing privileges.",
    )
    .action(async (operand: string | undefined, options: ValidateOptions) => {
      const file = fileOf(command, operand, options);
      const overrides = overridesOf(options, modeOf(command, options));
      const { host } = options;
      if (options.json) {
        const { loadConfigFile } = await import("../config/load.ts");
        const result = await loadConfigFile(file, overrides, { host });
        const problems = result.ok ? result.warnings : result.problems;
        const here = result.ok && host ? await onThisHost(result.config) : undefined;
        const ok = result.ok && here?.refused === undefined;
        process.stdout.write(`${JSON.stringify({ ok, file, problems, host: here }, undefined, 2)}\n`);
        process.exitCode = ok ? EXIT.ok : EXIT.failure;
        return;
      }
      const { loadOrExplain } = await import("./load.ts");
      const loaded = await loadOrExplain(file, overrides, { host });
      if (loaded === undefined) {
        process.exitCode = EXIT.failure;
        return;
      }
      const { summary } = await import("../config/print.ts");
      const { inert } = await import("../config/problem.ts");
      const { unserved } = await import("../config/unserved.ts");
      const here = host ? await onThisHost(loaded.config) : undefined;
      for (const warning of here?.warnings ?? []) {
        process.stderr.write(`${inert(file)}: warning: on this host: ${inert(warning)}\n`);
      }
      if (here?.refused !== undefined) {
        process.stderr.write(`${inert(file)}: error: on this host: ${inert(here.refused)}\n`);
        process.exitCode = EXIT.failure;
        return;
      }
      process.stdout.write(`${inert(file)}: valid: ${summary(loaded.config)}\n`);
      for (const limit of unserved(loaded.config)) {
        process.stdout.write(`${inert(file)}: note: ${limit}\n`);
      }
    });
}

/** What only the data plane can know about this host: why it would refuse a packet mode, and what stands in the way. */
async function onThisHost(config: Config): Promise<{ refused?: string; warnings: string[] } | undefined> {
  if (config.mode === "proxy") return undefined;
  const { loadDataplane } = await import("../native/index.ts");
  const { lower } = await import("../config/lower.ts");
  try {
    return { warnings: (await loadDataplane()).hostProblems(lower(config)) };
  } catch (error) {
    return { refused: error instanceof Error ? error.message : String(error), warnings: [] };
  }
}
