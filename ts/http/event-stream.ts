/**
 * Answers that go on: server-sent events. A message is asked for when the client has taken the one before, so
 * whoever makes them sees how slow a client is; the silence in between is filled with comments, by which both sides
 * find out that the other is gone.
 */
import type { Context } from "hono";
import { Failure } from "./failure.ts";
import type { Env } from "./guard.ts";

/** One message; `data` becomes JSON. */
export type Message = { event: string; data: unknown; id?: string };

/** Shorter than what the server, and proxies on the way, take for a dead connection. */
const KEEP_ALIVE_MS = 15_000;
/** What a client waits before it connects again. */
const RETRY_MS = 1000;

/** How many answers of one listener may go on at once. */
export class Places {
  readonly #most: number;
  #taken = 0;

  constructor(most: number) {
    this.#most = most;
  }

  /**
   * Takes one until the returned function is called.
   *
   * @throws Failure 503 when all are taken.
   */
  take(): () => void {
    if (this.#taken >= this.#most) {
      throw new Failure(503, `${this.#most} streams are open here already, which is the most`, {
        code: "TOO_MANY",
      });
    }
    this.#taken += 1;
    let free = (): void => {
      this.#taken -= 1;
      free = () => undefined;
    };
    return () => free();
  }
}

/** Sends `messages` until they end or the client goes, which ends them. */
export function eventStream(
  c: Context<Env>,
  places: Places,
  messages: () => AsyncIterator<Message, unknown>,
): Response {
  const headers = { "content-type": "text/event-stream" };
  if (c.req.method === "HEAD") return new Response(null, { headers });
  const free = places.take();
  const encoder = new TextEncoder();
  const source = orElse(messages, free);
  let pending: Promise<IteratorResult<Message, unknown>> | undefined;
  let begun = false;
  const end = (): void => {
    free();
    void source.return?.();
  };
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      // Clients learn from it that they are connected.
      if (!begun) {
        begun = true;
        return controller.enqueue(encoder.encode(`retry: ${RETRY_MS}\n\n`));
      }
      pending ??= source.next();
      const next = await orSilence(pending);
      if (next === undefined) return controller.enqueue(encoder.encode(":\n\n"));
      pending = undefined;
      if (next.done !== true) return controller.enqueue(encoder.encode(encoded(next.value)));
      end();
      controller.close();
    },
    cancel: end,
  });
  return new Response(body, { headers });
}

/** A place is not kept for a stream that cannot begin. */
function orElse<T>(begin: () => T, failed: () => void): T {
  try {
    return begin();
  } catch (error) {
    failed();
    throw error;
  }
}

/** JSON has no line breaks, which would end the field. */
function encoded({ event, data, id }: Message): string {
  return `${id === undefined ? "" : `id: ${id}\n`}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
}

async function orSilence<T>(next: Promise<T>): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const silence = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, KEEP_ALIVE_MS, undefined);
    timer.unref();
  });
  try {
    return await Promise.race([next, silence]);
  } finally {
    clearTimeout(timer);
  }
}
