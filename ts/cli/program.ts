/**
 * The command tree. Commands import what they do only when they run: help, version and completion
 * must not pay for zod, pino or the addon.
 */
import { Command, CommanderError } from "commander";
import { VERSION } from "../control/version.ts";
import { cleanupCommand } from "./cleanup.ts";
import { completionCommand } from "./completion.ts";
import { configCommand } from "./config.ts";
import { demoCommand } from "./demo.ts";
import { doctorCommand } from "./doctor.ts";
import { dsrServerCommand } from "./dsr-server.ts";
import { leaveHungReads } from "./end.ts";
import { eventsCommand } from "./events.ts";
import { EXIT, EXIT_MEANING } from "./exit-codes.ts";
import { explainCommand } from "./explain.ts";
import { flowsCommand } from "./flows.ts";
import { healthcheckCommand } from "./healthcheck.ts";
import { importCommand } from "./import.ts";
import { commandFirst } from "./operands.ts";
import { planCommand } from "./plan.ts";
import { reloadCommand } from "./reload.ts";
import { runCommand } from "./run.ts";
import { schemaCommand } from "./schema.ts";
import { drainCommand, enableCommand, weightCommand } from "./servers.ts";
import { endProcess, signals } from "./signals.ts";
import { statsCommand } from "./stats.ts";
import { validateCommand } from "./validate.ts";

/** Commands that run until a signal ends them, and see to signals themselves. */
const SERVING = ["run", "demo"];

/** The whole tree, also read by `completion`. Nothing is run and nothing printed. */
export function buildProgram(): Command {
  const program = new Command("convey")
    .description("A layer-4 load balancer: TCP connections in, spread over servers that are up.")
    .version(`convey ${VERSION}`, "-v, --version", "print the version")
    .helpOption("-h, --help", "print this help, or a command's with `convey <command> --help`")
    .helpCommand("help [command]", "print this help, or that of a command")
    .configureHelp({ showGlobalOptions: false })
    .showHelpAfterError("Run `convey --help` for the commands and options.")
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, "convey: ")) });

  const run = runCommand(program);
  demoCommand(program);
  validateCommand(program);
  configCommand(program);
  schemaCommand(program);
  importCommand(program);
  statsCommand(program);
  planCommand(program);
  reloadCommand(program);
  drainCommand(program);
  enableCommand(program);
  weightCommand(program);
  eventsCommand(program);
  flowsCommand(program);
  explainCommand(program);
  doctorCommand(program);
  healthcheckCommand(program);
  dsrServerCommand(program);
  cleanupCommand(program);
  completionCommand(program);

  program.hook("preAction", (_, command) => {
    if (!SERVING.includes(command.name())) signals().release();
  });

  program.addHelpText("after", () => {
    const help = run.createHelp();
    const options = help
      .visibleOptions(run)
      .filter((option) => option.long !== "--help")
      .map((option) => [help.optionTerm(option), help.optionDescription(option)] as const);
    const width = Math.max(...options.map(([term]) => term.length));
    return [
      "",
      "Without a command, `convey` means `convey run`:",
      ...options.map(([term, text]) => `  ${term.padEnd(width)}  ${text}`),
      "",
      "Exit codes:",
      ...EXIT_MEANING.map(([code, meaning]) => `  ${code}  ${meaning}`),
    ].join("\n");
  });

  for (const command of [program, ...program.commands]) command.exitOverride();
  return program;
}

/** Parses `argv` and runs the command; sets the process's exit code. */
export async function main(argv: readonly string[]): Promise<void> {
  // A reader that goes away (`convey --help | head -1`) is not an error.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
  try {
    const program = buildProgram();
    await program.parseAsync([...argv.slice(0, 2), ...commandFirst(program, argv.slice(2))]);
    await leaveHungReads(Number(process.exitCode ?? EXIT.ok));
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage;
      return;
    }
    const { failureText } = await import("./failure.ts");
    process.stderr.write(failureText(error));
    // Not exitCode: what the command had started must not keep the process.
    endProcess(EXIT.failure);
  }
}
