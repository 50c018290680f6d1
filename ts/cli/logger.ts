/** The program's log: lines for people on a terminal, JSON otherwise, on standard error. */
import { isatty } from "node:tty";
import { type Logger, pino } from "pino";
import pretty from "pino-pretty";
import { type Output, openOutput } from "./output.ts";
import { useColor } from "./terminal.ts";

/** A logger and the output below it, to be flushed before the process ends. */
export interface ProgramLog {
  logger: Logger;
  flush: Output["flush"];
}

/** Opens the log on a descriptor. */
export function openLog(level: string, descriptor = 2): ProgramLog {
  const output = openOutput(descriptor);
  const people = isatty(descriptor);
  const format = people
    ? pretty.prettyFactory({
        colorize: useColor(people),
        translateTime: "SYS:HH:MM:ss.l",
        ignore: "pid,hostname",
        singleLine: true,
      })
    : undefined;
  const logger = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    { write: (line: string) => output.write(format ? format(line) : line) },
  );
  return { logger, flush: (deadlineMs) => output.flush(deadlineMs) };
}
