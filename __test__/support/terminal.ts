/** Programs on a terminal of their own, which can be typed at and closed. */
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Running, type StartOptions, start } from "./processes.ts";

const SCRIPT = `
import os, pty, select, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
print("pid", pid, flush=True)
while True:
    ready, _, _ = select.select([0, terminal], [], [])
    if terminal in ready:
        try:
            shown = os.read(terminal, 4096)
        except OSError:
            break
        os.write(1, shown.replace(b"\\r", b""))
    if 0 in ready:
        typed = os.read(0, 4096)
        if not typed:
            break
        os.write(terminal, typed)
os.close(terminal)
print("ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
`;

/**
 * Starts a command on a terminal; needs python3. What it shows is in \`stdout\`, after a line "pid <n>", and its end
 * is the line "ended with <code>". What is written to \`child.stdin\` is typed; ending that closes the terminal.
 */
export function onTerminal(
  command: readonly string[],
  options: StartOptions = {},
  prefix: readonly string[] = [],
): Running {
  const script = join(mkdtempSync(join(tmpdir(), "convey-terminal-")), "terminal.py");
  writeFileSync(script, SCRIPT);
  return start([...prefix, "python3", script, ...command], { ...options, stdin: true });
}

const ESC = "\u001b";
const HOME = `${ESC}[H`;
const WIPE_REST = `${ESC}[J`;
const SEQUENCE = new RegExp(`${ESC}\\[\\??[0-9;]*[A-Za-z]`, "g");

/**
 * The lines of the latest picture, of a program that goes home, paints and wipes the rest. Only a whole one: a terminal
 * hands over in pieces what was written at once, and of a large picture the latest piece is a part.
 */
export function picture(shown: string): string[] {
  const end = shown.lastIndexOf(WIPE_REST);
  if (end < 0) return [];
  const whole = shown.slice(shown.lastIndexOf(HOME, end), end);
  return whole.replaceAll(SEQUENCE, "").split(/\r*\n/);
}
