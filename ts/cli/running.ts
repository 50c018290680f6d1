/** What the commands share that ask or change the running balancer. */
import { type Command, InvalidArgumentError, Option } from "commander";
import { EXIT } from "./exit-codes.ts";
import { failureText } from "./failure.ts";
import { type ConfigOptions, integer } from "./options.ts";

/** Which balancer to ask, and how to tell its answer. */
export type RunningOptions = Pick<ConfigOptions, "config" | "statsPort" | "statsBind"> & { json?: true };

/** Adds them; `json` says what `--json` prints. */
export function addRunningOptions(command: Command, json: string): Command {
  return command
    .addOption(
      new Option("-c, --config <file>", "the file that the running one runs, or CONVEY_CONFIG").default(
        process.env.CONVEY_CONFIG || "./config.toml",
      ),
    )
    .option("--stats-port <port>", "ask by the HTTP server on this port instead of the socket", (value) =>
      integer(value, 65535),
    )
    .option("--stats-bind <address>", "address of that HTTP server")
    .option("--json", json)
    .addHelpText(
      "after",
      "\nThe process that runs the file is asked by its socket, or by the HTTP server of [stats] with its token file\n" +
        'or CONVEY_STATS_TOKEN. With --json an error is {"error", "code", "problems"?} on standard output.',
    );
}

/** Runs `act`; an error is told as JSON or, with all its problems, as text. */
export async function tellErrors(json: true | undefined, act: () => Promise<void>): Promise<void> {
  try {
    await act();
  } catch (error) {
    process.exitCode = EXIT.failure;
    const { code, problems } = error as { code?: string; problems?: [] };
    if (!(error instanceof Error) || code === undefined) throw error;
    if (json) printJson({ error: error.message, code, ...(problems === undefined ? {} : { problems }) });
    else if ((problems?.length ?? 0) > 1) {
      const { formatProblems } = await import("../config/diagnostics.ts");
      process.stderr.write(`${formatProblems(problems ?? [])}\n`);
    } else process.stderr.write(failureText(error));
  }
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, undefined, 2)}\n`);
}

export function printLines(lines: readonly string[]): void {
  process.stdout.write(lines.map((line) => `${line}\n`).join(""));
}

/** For commands that go on until somebody ends them: who reads no further wants no more (`convey events | head -1`). */
export function endWithReader(): void {
  process.stdout.on("error", () => process.exit());
}

const UNITS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 } as const;
/** A day: what the API takes. */
const MAX_MS = 86_400_000;

/** An argument parser for durations such as 500ms, 30s, 2m or 1h; milliseconds. */
export function duration(value: string): number {
  const [, digits, unit] = /^(\d{1,9})(ms|s|m|h)$/.exec(value) ?? [];
  const ms = Number(digits) * (UNITS[unit as keyof typeof UNITS] ?? Number.NaN);
  if (ms <= MAX_MS) return ms;
  throw new InvalidArgumentError("Expected a time such as 500ms, 30s, 2m or 1h, at most 24h.");
}

/** An argument parser for `backend/server`. Neither has a slash in its name. */
export function serverName(value: string): { backend: string; server: string } {
  const [backend, server, ...rest] = value.split("/");
  if (backend && server && rest.length === 0) return { backend, server };
  throw new InvalidArgumentError("Servers are named backend/server.");
}

/** One or more of them. */
export function serverNames(value: string, before: ReturnType<typeof serverName>[] = []) {
  return [...before, serverName(value)];
}
