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
  const people = isatty(descriptor);
  const format = people
    ? pretty.prettyFactory({
        colorize: useColor(people),
        translateTime: "SYS:HH:MM:ss.l",
        ignore: "pid,hostname",
        // The message says it all; the fields are for programs.
        hideObject: true,
      })
    : (line: string) => line;
  const lines = (write: (line: string) => void) =>
    pino(
      {
        level,
        base: null,
        timestamp: pino.stdTimeFunctions.isoTime,
        formatters: { level: (label) => ({ level: label }) },
      },
      { write: (line: string) => write(format(line)) },
    );
  const output = openOutput(descriptor, (count) => {
    let line = "";
    const [were, it] = count === 1 ? ["line was", "it"] : ["lines were", "they"];
    lines((text) => {
      line = text;
    }).warn({ lost: count }, `${count} log ${were} lost: ${it} could not be written in time`);
    return line;
  });
  return { logger: lines((line) => output.write(line)), flush: (deadlineMs) => output.flush(deadlineMs) };
}
