/** Requests that wait for the end of what they began, or do not. */
import { setImmediate } from "node:timers/promises";
import type { Context } from "hono";
import type { Places } from "./event-stream.ts";
import type { Env } from "./guard.ts";

/**
 * Begins `work`; with `wait` resolves with its result, otherwise at once with undefined. What it refuses at once
 * rejects either way.
 */
export async function patiently<T>(
  c: Context<Env>,
  places: Places,
  wait: boolean,
  work: () => Promise<T>,
): Promise<T | undefined> {
  const free = wait ? places.take() : () => undefined;
  try {
    const working = work();
    if (!wait) {
      // What goes wrong later is told by events.
      working.catch(() => undefined);
      return await Promise.race([working.then(() => undefined), setImmediate(undefined)]);
    }
    // Nothing moves on the connection meanwhile, which is otherwise the end of it; HTTP sets the time anew afterwards.
    c.env.incoming.socket.setTimeout(0);
    return await working;
  } finally {
    free();
  }
}
