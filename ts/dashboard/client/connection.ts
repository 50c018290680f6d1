/**
 * The stream of frames, for as long as the page lives: asked for with fetch, because an EventSource cannot send a
 * token. When it ends it is asked for again, at growing intervals.
 */
import type { Frame } from "../../control/frame.ts";
import { token } from "./token.ts";

export type Status =
  | { kind: "live" }
  /** No frame comes; `cause` says why, for people. */
  | { kind: "lost"; cause: string }
  /** The listener wants a token, or another one. */
  | { kind: "locked" };

const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 5000;
/** Frames come each second; a connection that has been silent for so long is dead. */
const SILENCE_MS = 10_000;

export class Connection {
  readonly #onFrame: (frame: Frame) => void;
  readonly #onStatus: (status: Status) => void;
  #retryMs = FIRST_RETRY_MS;
  #wake: (() => void) | undefined;
  #abort = new AbortController();
  /** The stream was given up on purpose. */
  #restarting = false;

  constructor(onFrame: (frame: Frame) => void, onStatus: (status: Status) => void) {
    this.#onFrame = onFrame;
    this.#onStatus = onStatus;
    void this.#run();
  }

  /** Asks again now, for a full picture. */
  restart(): void {
    this.#retryMs = FIRST_RETRY_MS;
    this.#restarting = true;
    this.#abort.abort();
    this.#wake?.();
  }

  async #run(): Promise<never> {
    for (;;) {
      this.#abort = new AbortController();
      this.#restarting = false;
      const status = await this.#read(this.#abort).catch(
        (error: unknown): Status => ({ kind: "lost", cause: error instanceof Error ? error.message : "" }),
      );
      if (this.#restarting) {
        this.#restarting = false;
        continue;
      }
      this.#onStatus(status);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, this.#retryMs);
      });
      this.#retryMs = Math.min(LAST_RETRY_MS, this.#retryMs * 2);
    }
  }

  /** Until the stream ends; tells how. */
  async #read(abort: AbortController): Promise<Status> {
    let silence = setTimeout(() => abort.abort(), SILENCE_MS);
    try {
      const known = token();
      const response = await fetch("api/v1/live", {
        cache: "no-store",
        signal: abort.signal,
        headers: known === undefined ? {} : { authorization: `Bearer ${known}` },
      });
      if (response.status === 401) return { kind: "locked" };
      if (!response.ok || response.body === null) return { kind: "lost", cause: `HTTP ${response.status}` };
      let text = "";
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let next = await reader.read(); !next.done; next = await reader.read()) {
        clearTimeout(silence);
        silence = setTimeout(() => abort.abort(), SILENCE_MS);
        text += next.value;
        for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
          const data = /^data: (.*)$/m.exec(text.slice(0, end))?.[1];
          text = text.slice(end + 2);
          if (data === undefined) continue;
          this.#retryMs = FIRST_RETRY_MS;
          this.#onStatus({ kind: "live" });
          this.#onFrame(JSON.parse(data) as Frame);
        }
      }
      return { kind: "lost", cause: "the balancer has ended the connection" };
    } finally {
      clearTimeout(silence);
    }
  }
}
