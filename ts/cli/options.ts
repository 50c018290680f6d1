/** The options that say which configuration to use and what to change in it. */
import { type Command, InvalidArgumentError, Option } from "commander";
import { environmentOverrides, flagOverrides, type Override } from "../config/overrides.ts";

export const MODES = ["proxy", "passthrough", "dsr"] as const;
export const ENGINES = ["auto", "tc", "xdp", "af_xdp", "af_packet"] as const;
export const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "silent"] as const;

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
    .addOption(new Option("-c, --config <file>", "configuration file").default("./config.toml"))
    .addOption(
      new Option("--mode <mode>", "how traffic is forwarded; proxy unless the file says otherwise")
        .choices([...MODES])
        .argParser((value, previous: Mode[] | undefined) => [...(previous ?? []), oneOf(MODES, value)]),
    )
    .option("-p, --passthrough", "the same as --mode=passthrough")
    .option("-d, --dsr", "the same as --mode=dsr")
    .addOption(
      new Option("--engine <engine>", "what moves packets in passthrough and dsr").choices([...ENGINES]),
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

/** What the environment and the flags change in the file, in that order. */
export function overridesOf(options: ConfigOptions, mode: Mode | undefined): Override[] {
  const { engine, statsPort, statsBind, logLevel, drainTimeoutMs } = options;
  return [
    ...environmentOverrides(process.env),
    ...flagOverrides({ mode, engine, statsPort, statsBind, logLevel, drainTimeoutMs }),
  ];
}

/** Refuses operands that the command does not take; the likely cause is a mistyped command. */
export function refuseOperands(command: Command): void {
  const [operand] = command.args;
  if (operand !== undefined) command.error(`error: unknown command "${operand}"`);
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
