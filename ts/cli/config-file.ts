/** Which file a command reads that takes one as an operand as well as through --config. */
import type { Command } from "commander";
import type { ConfigOptions } from "./options.ts";

/** The operand, or what --config says; two different ones are a usage error. */
export function fileOf(command: Command, operand: string | undefined, options: ConfigOptions): string {
  if (operand === undefined) return options.config;
  if (command.getOptionValueSource("config") === "cli" && options.config !== operand) {
    command.error(`error: "${operand}" and --config="${options.config}" were both given; name one file`);
  }
  return operand;
}
