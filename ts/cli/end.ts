/** The end of the process, also when a file system hangs: Node's own exit would wait for the thread that reads. */
import { setTimeout as sleep } from "node:timers/promises";
import { readsEnded } from "../config/read.ts";
import { endProcess } from "./signals.ts";

/** A read that takes longer hangs. */
const HUNG_MS = 500;

/** Ends the process with this code. */
export async function end(code: number): Promise<never> {
  await leaveHungReads(code);
  return endProcess(code);
}

/** Ends the process with this code if a read hangs; otherwise there is nothing that an ordinary end waits for. */
export async function leaveHungReads(code: number): Promise<void> {
  const free = await Promise.race([readsEnded().then(() => true), sleep(HUNG_MS, false, { ref: false })]);
  if (free) return;
  process.emit("exit", code);
  const { loadDataplane } = await import("../native/index.ts");
  (await loadDataplane()).exitNow(code);
}
