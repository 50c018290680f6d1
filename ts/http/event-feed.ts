/**
 * The balancer's events with numbers, the latest of them kept for all readers together: a reader is a position. One
 * that falls behind what is kept is told how many it has lost, and one that comes back goes on where it was.
 */
import type { BalancerEvent } from "../control/events.ts";
import type { Message } from "./event-stream.ts";

/** Events kept. */
const KEPT = 1024;

/** See the module's head. */
export class EventFeed {
  /** Of one process alone: another numbers other events. */
  readonly #era = `${Date.now().toString(36)}-${process.pid.toString(36)}`;
  readonly #kept: BalancerEvent[] = [];
  /** The number of the latest event, from 1. */
  #latest = 0;
  #ended = false;
  readonly #waiting = new Set<() => void>();

  /** Reads `events` to their end. */
  constructor(events: AsyncIterable<BalancerEvent>) {
    void this.#follow(events);
  }

  /** Events after the one with `lastId`, as a client knows it; from now on without one, or with a stranger's. */
  read(lastId?: string): AsyncIterator<Message, undefined> {
    let position = this.#positionOf(lastId);
    let stopped = false;
    let wake = (): void => undefined;
    const next = async (): Promise<IteratorResult<Message, undefined>> => {
      for (;;) {
        const oldest = this.#latest - this.#kept.length + 1;
        if (stopped) return { done: true, value: undefined };
        if (position + 1 < oldest) {
          const count = oldest - position - 1;
          position = oldest - 1;
          return { done: false, value: this.#message(position, { type: "dropped", count, at: new Date() }) };
        }
        const event = this.#kept[position + 1 - oldest];
        if (event !== undefined) {
          position += 1;
          return { done: false, value: this.#message(position, event) };
        }
        if (this.#ended) return { done: true, value: undefined };
        await new Promise<void>((resolve) => {
          wake = resolve;
          this.#waiting.add(resolve);
        });
      }
    };
    return {
      next,
      return: async () => {
        stopped = true;
        this.#waiting.delete(wake);
        wake();
        return { done: true, value: undefined };
      },
    };
  }

  async #follow(events: AsyncIterable<BalancerEvent>): Promise<void> {
    for await (const event of events) {
      this.#kept.push(event);
      this.#latest += 1;
      if (this.#kept.length > KEPT) this.#kept.shift();
      this.#tell();
    }
    this.#ended = true;
    this.#tell();
  }

  #tell(): void {
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }

  #positionOf(lastId: string | undefined): number {
    const match = /^(.+)-(\d{1,15})$/.exec(lastId ?? "");
    return match?.[1] === this.#era ? Math.min(Number(match[2]), this.#latest) : this.#latest;
  }

  #message(position: number, data: BalancerEvent): Message {
    return { id: `${this.#era}-${position}`, event: data.type, data };
  }
}
