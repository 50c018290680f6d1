/** Which threads give way: the control plane has time, packets and connections have not. */
import { readdirSync, readFileSync } from "node:fs";
import { constants, getPriority, setPriority } from "node:os";

/** How the data plane names its threads. */
const DATA_PLANE = /^convey-/;

/**
 * Lowers the priority of every thread of this process that is none of the data plane's, of Node.js therefore, so that on a
 * busy core a health check or a page waits rather than traffic. Call it once the data plane runs: threads begin with the
 * priority of the thread that makes them. Where the system does not permit it everything stays as it was.
 */
export function favourTraffic(): void {
  for (const thread of threads()) {
    try {
      if (DATA_PLANE.test(readFileSync(`/proc/self/task/${thread}/comm`, "utf8"))) continue;
      const wanted = Math.max(getPriority(Number(thread)), constants.priority.PRIORITY_BELOW_NORMAL);
      setPriority(Number(thread), wanted);
    } catch {
      // It has ended, or may not be changed.
    }
  }
}

function threads(): string[] {
  try {
    return readdirSync("/proc/self/task");
  } catch {
    return [];
  }
}
