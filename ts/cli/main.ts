#!/usr/bin/env node
/** The command line's entry: catches signals before anything heavy is loaded, then runs one command. */
import { readFileSync } from "node:fs";
import { signals } from "./signals.ts";

/** Node holds this many files open at once while it loads the program. */
const LOADING = 128;

signals();
// Checked before anything else is loaded: an import that fails for want of a descriptor says anything but that.
const limit = openFilesLimit();
if (limit < LOADING) {
  process.stderr.write(
    `convey: the limit of ${limit} open files is too low to start with, ${LOADING} are needed\n` +
      "  try: ulimit -n 4096; LimitNOFILE= in a systemd unit; --ulimit nofile= for a container\n",
  );
  process.exitCode = 1;
} else {
  const { main } = await import("./program.ts");
  await main(process.argv);
}

/** The limit in force; Node has raised it as far as it may. */
function openFilesLimit(): number {
  try {
    const found = /^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1];
    return found === undefined ? Number.POSITIVE_INFINITY : Number(found);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EMFILE" ? 0 : Number.POSITIVE_INFINITY;
  }
}
