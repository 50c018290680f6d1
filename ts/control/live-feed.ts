/**
 * Hands frames to any number of live readers. A frame is made and serialized once for all of them, and only when
 * there is one; a reader that does not keep up misses frames and goes on with a full picture.
 */
import type { Frame, ServerHistory } from "./frame.ts";
import { type Sample, Sampler, type SampleSource } from "./sampler.ts";

/** Readers at once; each holds a connection of the HTTP server. */
const MAX_READERS = 32;

type Reader = { controller: ReadableStreamDefaultController<Uint8Array>; behind: boolean };

/** See the module's head. */
export class LiveFeed {
  readonly #sampler: Sampler;
  readonly #readers = new Set<Reader>();
  /** The full picture of the latest sample, once somebody wanted it. */
  #full: Uint8Array | undefined;
  #closed = false;

  constructor(source: SampleSource) {
    this.#sampler = new Sampler(source, (sample) => this.#tell(sample));
  }

  start(): void {
    this.#sampler.start();
  }

  /** Ends every reader's stream. */
  close(): void {
    this.#closed = true;
    this.#sampler.close();
    for (const { controller } of this.#readers) controller.close();
    this.#readers.clear();
  }

  /** Frames as server-sent events from now on; undefined when there are too many readers, or after `close()`. */
  open(): ReadableStream<Uint8Array> | undefined {
    if (this.#closed || this.#readers.size >= MAX_READERS) return undefined;
    let reader: Reader;
    return new ReadableStream<Uint8Array>({
      start: (controller) => {
        reader = { controller, behind: false };
        this.#readers.add(reader);
        const full = this.#fullPicture();
        if (full === undefined) reader.behind = true;
        else controller.enqueue(full);
      },
      cancel: () => void this.#readers.delete(reader),
    });
  }

  /** What is kept of `backend/server`. */
  history(server: string): ServerHistory | undefined {
    return this.#sampler.history(server);
  }

  #tell({ at, changes, point }: Sample): void {
    this.#full = undefined;
    if (this.#readers.size === 0) return;
    const delta = changes && serialized({ type: "delta", at, ...changes, point });
    for (const reader of this.#readers) {
      const { controller } = reader;
      // The frame before still waits for the reader.
      const slow = (controller.desiredSize ?? 0) <= 0;
      const frame = slow ? undefined : reader.behind ? this.#fullPicture() : (delta ?? this.#fullPicture());
      reader.behind = frame === undefined;
      if (frame !== undefined) controller.enqueue(frame);
    }
  }

  #fullPicture(): Uint8Array | undefined {
    const frame = this.#full === undefined ? this.#sampler.full() : undefined;
    if (frame !== undefined) this.#full = serialized(frame);
    return this.#full;
  }
}

const encoder = new TextEncoder();

/** As a server-sent event; JSON has no line breaks of its own. */
const serialized = (frame: Frame): Uint8Array =>
  encoder.encode(`event: ${frame.type}\ndata: ${JSON.stringify(frame)}\n\n`);
