/** Waiting for the end: of open connections until a deadline, of a reload under way in any case for a moment. */
import { setTimeout as sleep } from "node:timers/promises";

/** How often connections are counted. */
const POLL_MS = 50;
/** What a reload that is being put in service gets when the deadline comes sooner. */
const RELOAD_GRACE_MS = 1000;

/** Waits until `time`, which is asked again and again: it may come nearer meanwhile. */
export async function until(time: () => number): Promise<void> {
  for (let left = time() - performance.now(); left > 0; left = time() - performance.now()) {
    await sleep(Math.min(left, POLL_MS));
  }
}

/** `deadline` is asked again and again: it may come nearer meanwhile. */
export async function untilQuiet(
  connections: () => number,
  reloads: Promise<unknown>,
  deadline: () => number,
): Promise<void> {
  const graceEnds = performance.now() + RELOAD_GRACE_MS;
  let reloading = true;
  void reloads.finally(() => {
    reloading = false;
  });
  for (;;) {
    // Also lets `reloads` tell that there are none.
    await sleep(0);
    const now = performance.now();
    const draining = connections() > 0 && now < deadline();
    if (!draining && !(reloading && now < Math.max(deadline(), graceEnds))) return;
    await sleep(Math.max(1, Math.min(reloading ? 5 : POLL_MS, deadline() - now)));
  }
}
