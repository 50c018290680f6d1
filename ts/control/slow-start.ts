/**
 * Slow start: a server that begins to take new connections gets its weight in steps, each a twentieth of it, over
 * `slow_start_ms`. It begins when the server comes up, is enabled, gets a weight again or is added; not for those that
 * are there at the start of the process. It ends with the last step, and when the server takes no more connections.
 */
import { WHOLE_SHARE } from "../config/lower.ts";
import type { Config } from "../config/schema.ts";
import { carryOver, isUp, type ServerRecord, type ServerRecords, weightOf } from "./states.ts";

/** Shorter steps are taken together: every one builds the tables of the backend anew. */
const LEAST_STEP_MS = 50;

/** Records for the start of the process: nobody is in slow start. */
export function firstRecords(config: Config): ServerRecords {
  const records = carryOver(config, new Map());
  for (const record of records.values()) record.serves = takesConnections(record);
  return records;
}

/** Sees whether a record takes new connections by now, or no more, after anything of it may have changed. */
export function settle(record: ServerRecord, now = performance.now()): void {
  const serves = takesConnections(record);
  if (serves && !record.serves) record.slowSince = now;
  if (!serves) record.slowSince = undefined;
  record.serves = serves;
  record.share = shareAt(record, now);
}

/** Whether it would be given a connection: up, not ejected, not drained, and with a weight. */
export const takesConnections = (record: ServerRecord): boolean =>
  isUp(record) && !record.draining && weightOf(record) > 0;

function shareAt(record: ServerRecord, now: number): number {
  const { slowSince, slowStartMs } = record;
  if (slowSince === undefined) return WHOLE_SHARE;
  const share = Math.floor(((now - slowSince) / slowStartMs) * WHOLE_SHARE);
  if (slowStartMs > 0 && share < WHOLE_SHARE) return Math.max(1, share);
  record.slowSince = undefined;
  return WHOLE_SHARE;
}

/** One timer for the next step of any server. */
export class SlowStarts {
  readonly #publish: (records: ServerRecord[]) => void;
  readonly #records: () => Iterable<ServerRecord>;
  #timer: NodeJS.Timeout | undefined;

  /** `publish` takes the records whose share has changed. */
  constructor(records: () => Iterable<ServerRecord>, publish: (records: ServerRecord[]) => void) {
    this.#records = records;
    this.#publish = publish;
  }

  /** To be called when records have changed: some may be in slow start now. */
  arm(): void {
    if (this.#timer !== undefined) return;
    let wait = Number.POSITIVE_INFINITY;
    const now = performance.now();
    for (const { slowSince, slowStartMs, share } of this.#records()) {
      if (slowSince === undefined) continue;
      wait = Math.min(wait, slowSince + ((share + 1) / WHOLE_SHARE) * slowStartMs - now);
    }
    if (wait === Number.POSITIVE_INFINITY) return;
    this.#timer = setTimeout(() => this.#step(), Math.max(LEAST_STEP_MS, wait));
    this.#timer.unref();
  }

  /** Gives all of them their whole weight: nobody will be there to do so. */
  finish(): void {
    this.close();
    this.#step(Number.POSITIVE_INFINITY);
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #step(now = performance.now()): void {
    this.#timer = undefined;
    const changed = [...this.#records()].filter((record) => {
      if (record.slowSince === undefined) return false;
      const { share } = record;
      settle(record, now);
      return record.share !== share;
    });
    if (changed.length > 0) this.#publish(changed);
    this.arm();
  }
}
