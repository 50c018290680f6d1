/**
 * A bench that is told to end ends in order: what runs in its namespaces gets SIGTERM, so that whatever waits for it
 * fails, and the labs are removed on the way out.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";

const standing = new Set<string>();
let cause: NodeJS.Signals | undefined;

/** Namespaces whose processes are ended when the bench is. `using` forgets them. */
export function guard(namespaces: readonly string[]): Disposable {
  for (const namespace of namespaces) standing.add(namespace);
  return {
    [Symbol.dispose]() {
      for (const namespace of namespaces) standing.delete(namespace);
    },
  };
}

/** Throws once a signal has come. */
export function goOn(): void {
  if (cause !== undefined) throw new Error(`the bench was ended by ${cause}`);
}

/** Runs `bench`; a signal ends it with the exit code shells expect, after all was removed. */
export async function interruptible(bench: () => Promise<void>): Promise<void> {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    // Not once: a second signal must not end the process before its namespaces are gone.
    process.on(signal, () => {
      cause ??= signal;
      for (const namespace of standing) endProcesses(namespace);
    });
  }
  // Configuration files of every peer and visit go with it; os.tmpdir() asks the variable each time.
  const folder = mkdtempSync(join(tmpdir(), "convey-bench-"));
  process.env.TMPDIR = folder;
  try {
    await bench();
  } catch (error) {
    if (cause === undefined) throw error;
    console.error(`ended by ${cause}; namespaces are removed, finished rounds are in the file`);
    process.exitCode = 128 + constants.signals[cause];
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function endProcesses(namespace: string): void {
  let pids: string[] = [];
  try {
    pids = execFileSync("ip", ["netns", "pids", namespace], { encoding: "utf8" }).split("\n").filter(Boolean);
  } catch {
    // The namespace is gone already.
  }
  for (const pid of pids) {
    try {
      process.kill(Number(pid), "SIGTERM");
    } catch {
      // The process is gone already.
    }
  }
}
