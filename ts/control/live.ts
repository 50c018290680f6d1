/** Decisions on packets and connections as they are made, as something to iterate over. */
import type { Protocol } from "../config/schema.ts";
import { ConveyError, type Dataplane, type NativeFlowFilter, type NativeLiveBatch } from "../native/index.ts";
import { type Explanation, toExplanation } from "./explain.ts";

/** A decision that was made on a packet, in proxy mode on a connection. */
export type LiveDecision = {
  /** When, in ISO 8601. */
  at: string;
  explanation: Explanation;
  /** How many decisions before this one found no room, because they came faster than they were read. */
  lost: number;
};

/** `durationMs` is 30,000 by default and 600,000 at most, `count` 1,000 and 100,000. */
export type LiveOptions = { durationMs?: number | undefined; count?: number | undefined };

const MOST_WAITING = 1_024;
const LIMITS = {
  durationMs: { usual: 30_000, most: 600_000 },
  count: { usual: 1_000, most: 100_000 },
} as const;

/** Begins at once; ends with its time, its count, the reader's `break`, or the balancer. */
export function watchLive(
  dataplane: Dataplane,
  filter: NativeFlowFilter,
  options: LiveOptions,
): AsyncIterableIterator<LiveDecision, undefined> {
  const decisions = new Decisions();
  const stop = dataplane.watchExplain(
    filter,
    within("durationMs", options.durationMs),
    within("count", options.count),
    (batch) => decisions.add(batch),
  );
  return decisions.read(stop);
}

function within(name: keyof typeof LIMITS, value: number | undefined): number {
  const { usual, most } = LIMITS[name];
  const wanted = value ?? usual;
  if (Number.isInteger(wanted) && wanted >= 1 && wanted <= most) return wanted;
  throw new ConveyError("CONFIG_INVALID", `${name} ${wanted} is not a whole number from 1 to ${most}`, {
    field: name,
  });
}

class Decisions {
  readonly #waiting: LiveDecision[] = [];
  #lostHere = 0;
  #ended = false;
  #wake: (() => void) | undefined;

  add({ decisions, lost, ended }: NativeLiveBatch): void {
    for (const { atMs, protocol, source, destination, explanation } of decisions) {
      if (this.#waiting.length >= MOST_WAITING) {
        this.#lostHere += 1;
        continue;
      }
      const flow = { protocol: protocol as Protocol, source, destination };
      this.#waiting.push({
        at: new Date(atMs).toISOString(),
        explanation: toExplanation(flow, explanation),
        lost: lost + this.#lostHere,
      });
    }
    this.#ended ||= ended;
    this.#wake?.();
  }

  read(stop: () => void): AsyncIterableIterator<LiveDecision, undefined> {
    const next = async (): Promise<IteratorResult<LiveDecision, undefined>> => {
      for (;;) {
        const value = this.#waiting.shift();
        if (value !== undefined) return { value, done: false };
        if (this.#ended) return { value: undefined, done: true };
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    };
    // One reader at a time: those who ask early wait for each other.
    let turn: Promise<unknown> = Promise.resolve();
    return {
      next: () => {
        const mine = turn.then(next);
        turn = mine;
        return mine;
      },
      return: async () => {
        stop();
        this.#waiting.length = 0;
        this.#ended = true;
        this.#wake?.();
        return { value: undefined, done: true };
      },
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }
}
