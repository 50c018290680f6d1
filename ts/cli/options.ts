/** The options that say which configuration to use and what to change in it. */
import { type Command, InvalidArgumentError, Option } from "commander";
import { environmentOverrides, flagOverrides, type Override } from "../config/overrides.ts";
import { ENGINES, LOG_LEVELS, MODES } from "../config/words.ts";

type Mode = (typeof MODES)[number];

/** What commander collects from the options added here. */
export interface ConfigOptions {
  config: string;
  mode?: Mode[];
  passthrough?: true;
  dsr?: true;
  engine?: (typeof ENGINES)[number];
  statsPort?: number;
  statsBind?: string;
  logLevel?: (typeof LOG_LEVELS)[number];
  drainTimeoutMs?: number;
}

/** Adds the options shared by the commands that read a configuration. */
export function addConfigOptions(command: Command): Command {
  return command
    .addOption(
      new Option("-c, --config <file>", "configuration file, or CONVEY_CONFIG").default(
        process.env.CONVEY_CONFIG || "./config.toml",
      ),
    )
    .addOption(
      new Option("--mode <mode>", "how traffic is forwarded; proxy unless the file says otherwise")
        .choices([...MODES])
        .argParser((value, previous: Mode[] | undefined) => [...(previous ?? []), oneOf(MODES, value)]),
    )
    .option("-p, --passthrough", "the same as --mode=passthrough")
    .option("-d, --dsr", "the same as --mode=dsr")
    .addOption(
      new Option(
        "--engine <engine>",
        "what moves packets in passthrough and dsr: kernel programs (tc, xdp), or user space",
      ).choices([...ENGINES]),
    )
    .option("--stats-port <port>", "port of the HTTP server for /stats and /healthz", (value) =>
      integer(value, 65535),
    )
    .option("--stats-bind <address>", "address of the HTTP server")
    .addOption(new Option("--log-level <level>", "least severe messages logged").choices([...LOG_LEVELS]));
}

/** The one mode that the flags ask for, or undefined; two different ones are a usage error. */
export function modeOf(command: Command, options: ConfigOptions): Mode | undefined {
  const asked = [
    ...(options.mode ?? []).map((mode) => ({ flag: `--mode=${mode}`, mode })),
    ...(options.passthrough ? [{ flag: "--passthrough", mode: "passthrough" as const }] : []),
    ...(options.dsr ? [{ flag: "--dsr", mode: "dsr" as const }] : []),
  ];
  const [first, ...others] = asked;
  const other = others.find(({ mode }) => mode !== first?.mode);
  if (first && other) {
    command.error(`error: ${first.flag} and ${other.flag} were both given; choose one mode`);
  }
  return first?.mode;
}

/** The file of a command that takes it as an operand too; the operand and --config naming two is a usage error. */
export function fileOf(command: Command, operand: string | undefined, options: ConfigOptions): string {
  if (operand === undefined) return options.config;
  if (command.getOptionValueSource("config") === "cli" && options.config !== operand) {
    command.error(`error: "${operand}" and --config="${options.config}" were both given; name one file`);
  }
  return operand;
}

/** What the environment and the flags change in the file, in that order. */
export function overridesOf(options: ConfigOptions, mode: Mode | undefined): Override[] {
  const { engine, statsPort, statsBind, logLevel, drainTimeoutMs } = options;
  return [
    ...environmentOverrides(process.env),
    ...flagOverrides({ mode, engine, statsPort, statsBind, logLevel, drainTimeoutMs }),
  ];
}

/** An argument parser for whole numbers from 0 to `most`. */
export function integer(value: string, most: number): number {
  const number = /^\d{1,10}$/.test(value) ? Number(value) : Number.NaN;
  if (number <= most) return number;
  throw new InvalidArgumentError(`Expected a whole number from 0 to ${most}.`);
}

function oneOf<T extends string>(allowed: readonly T[], value: string): T {
  const found = allowed.find((candidate) => candidate === value);
  if (found === undefined) throw new InvalidArgumentError(`Allowed choices are ${allowed.join(", ")}.`);
  return found;
}

export { refuseOperands } from "./operands.ts";
