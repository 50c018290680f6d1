/** `convey doctor`: what of this host stands in the way of a balancer, and what to do about it. */
import { type Command, Option } from "commander";
import type { Override } from "../config/overrides.ts";
import type { Config } from "../config/schema.ts";
import type { Finding } from "../doctor/finding.ts";
import type { Look } from "../doctor/look.ts";
import { EXIT } from "./exit-codes.ts";
import { addConfigOptions, type ConfigOptions, modeOf, overridesOf, refuseOperands } from "./options.ts";

interface DoctorOptions extends ConfigOptions {
  fix?: true;
  undo?: true;
  json?: true;
}

/** How long the running one may take to say that it runs. */
const TIMEOUT_MS = 2000;

export function doctorCommand(program: Command): void {
  const command = program
    .command("doctor")
    .description(
      "examine this host: what stands in the way of balancing, with evidence and remedy; exit 1 on errors",
    );
  addConfigOptions(command)
    .option("--fix", "set the kernel parameters that are safe to set, and say which")
    .addOption(
      new Option("--undo", "take back what --fix has set, where nobody changed it since").conflicts("fix"),
    )
    .option("--json", 'print {"ok", "file", "findings", "fixed"} as JSON')
    .addHelpText(
      "after",
      "\nWithout --fix nothing is changed. What needs a privilege that is missing is told as not checked.\n" +
        "Servers of a DSR balancer are examined by `convey dsr-server <vip:port> --check`, on themselves.",
    )
    .allowExcessArguments()
    .action(async (options: DoctorOptions) => {
      refuseOperands(command);
      if (options.undo) return undo(options);
      const overrides = overridesOf(options, modeOf(command, options));
      const config = await load(options, overrides);
      if (config === undefined) {
        process.exitCode = EXIT.failure;
        return;
      }
      const { examine } = await import("../doctor/examine.ts");
      const look = () => lookAt(config, options, overrides);
      let findings = await examine(await look());
      const fixed = options.fix ? await fix(findings) : [];
      if (fixed.length > 0) findings = await examine(await look());
      await tell(findings, fixed, options);
    });
}

/** The configuration; undefined when it is invalid, which has been told by then. */
async function load(
  { config: file, json }: DoctorOptions,
  overrides: Override[],
): Promise<Config | undefined> {
  if (!json) {
    const { loadOrExplain } = await import("./load.ts");
    return (await loadOrExplain(file, overrides, { host: true }))?.config;
  }
  const { loadConfigFile } = await import("../config/load.ts");
  const result = await loadConfigFile(file, overrides, { host: true });
  if (result.ok) return result.config;
  const { problems } = result;
  process.stdout.write(
    `${JSON.stringify({ ok: false, file, problems, findings: [], fixed: [] }, undefined, 2)}\n`,
  );
  return undefined;
}

async function lookAt(config: Config, options: DoctorOptions, overrides: readonly Override[]): Promise<Look> {
  const [{ loadDataplane }, { lower }, { thisHost }, { Network }, { findRunning }, { askRunning }] =
    await Promise.all([
      import("../native/index.ts"),
      import("../config/lower.ts"),
      import("../doctor/host.ts"),
      import("../doctor/network.ts"),
      import("../doctor/running.ts"),
      import("./client.ts"),
    ]);
  const dataplane = await loadDataplane();
  const host = thisHost(dataplane);
  const running = await findRunning(host, config, async (path) => {
    const reply = await askRunning(options.config, overrides, { path, timeoutMs: TIMEOUT_MS, token: true });
    if (!reply.ok || reply.status !== 200) return undefined;
    try {
      return JSON.parse(reply.body);
    } catch {
      // Somebody else has the port of [stats].
      return undefined;
    }
  });
  const look = { host, network: new Network(host), config, running };
  try {
    return { ...look, report: dataplane.hostReport(lower(config)), refusal: undefined };
  } catch (error) {
    return { ...look, report: undefined, refusal: error instanceof Error ? error.message : String(error) };
  }
}

/** Makes every setting that the findings ask for; returns what was done, as commands. */
async function fix(findings: readonly Finding[]): Promise<string[]> {
  const settings = new Map(findings.flatMap((finding) => finding.fix).map((each) => [each.key, each]));
  if (settings.size === 0) return [];
  const { loadDataplane } = await import("../native/index.ts");
  return (await loadDataplane()).applySettings([...settings.values()]);
}

async function undo({ json }: DoctorOptions): Promise<void> {
  const { loadDataplane } = await import("../native/index.ts");
  const undone = (await loadDataplane()).undoSettings();
  const lines = undone.length > 0 ? undone : ["nothing to take back"];
  process.stdout.write(json ? `${JSON.stringify({ undone }, undefined, 2)}\n` : `${lines.join("\n")}\n`);
}

async function tell(findings: Finding[], fixed: string[], options: DoctorOptions): Promise<void> {
  const [{ hasErrors, report }, { useColor }] = await Promise.all([
    import("../doctor/report.ts"),
    import("./terminal.ts"),
  ]);
  const ok = !hasErrors(findings);
  if (options.json) {
    const text = JSON.stringify({ ok, file: options.config, findings, fixed }, undefined, 2);
    process.stdout.write(`${text}\n`);
  } else {
    const color = useColor(process.stdout.isTTY === true);
    const done = fixed.map((line) => `fixed    ${line}\n`).join("");
    const again = fixed.length > 0 ? "         `convey doctor --undo` takes it back\n" : "";
    const fixBy = `convey doctor --fix -c ${options.config}`;
    process.stdout.write(`${done}${again}${report(findings, { color, fixBy })}`);
  }
  process.exitCode = ok ? EXIT.ok : EXIT.failure;
}
