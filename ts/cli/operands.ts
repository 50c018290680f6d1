/** Words of the command line that are no options: the command, wherever it stands, and what is no command. */
import type { Command, Option } from "commander";
import { nearest } from "../config/nearest.ts";

/**
 * The arguments with the command's name in front: `-c x validate` is `validate -c x`. Without a command they stay
 * as they are, which means `run`.
 */
export function commandFirst(program: Command, args: readonly string[]): string[] {
  const commands = new Set(program.commands.map((command) => command.name()));
  const options = program.commands.flatMap((command) => command.options);
  for (let i = 0; i < args.length; i++) {
    const word = args[i] as string;
    if (word === "--") break;
    if (word.startsWith("-") && word !== "-") {
      if (takesNext(word, options)) i += 1;
      continue;
    }
    if (commands.has(word)) return [word, ...args.slice(0, i), ...args.slice(i + 1)];
    break;
  }
  return [...args];
}

/** Whether the word after an option, or after several short ones in one word, is its value. */
function takesNext(word: string, options: readonly Option[]): boolean {
  const required = (flag: string) =>
    options.some((option) => option.required && (option.short === flag || option.long === flag));
  if (word.startsWith("--")) return required(word);
  const first = [...word.slice(1)].findIndex((letter) => required(`-${letter}`));
  return first === word.length - 2;
}

/** What others call our commands. */
const ALSO: Readonly<Record<string, string>> = {
  serve: "run",
  start: "run",
  check: "validate",
  test: "validate",
  verify: "validate",
  show: "config",
  trace: "explain",
  convert: "import",
  migrate: "import",
  status: "healthcheck",
  health: "healthcheck",
};

/** Refuses operands that a command does not take; where none is given, the likely cause is a mistyped one. */
export function refuseOperands(command: Command): void {
  const [operand] = command.args;
  if (operand === undefined) return;
  // Without a command it is "run" that is asked for, so there the word may have been meant as one.
  if (command.name() !== "run") command.error(`error: ${command.name()} takes no "${operand}"`);
  const commands = command.parent?.commands.map((other) => other.name()) ?? [];
  const near = ALSO[operand] ?? nearest(operand, [...commands, "help", ...Object.keys(ALSO)]);
  const meant = near === undefined ? undefined : (ALSO[near] ?? near);
  command.error(
    `error: unknown command "${operand}"${meant === undefined ? "" : `; did you mean "${meant}"?`}`,
  );
}
