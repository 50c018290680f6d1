/**
 * What happens while a balancer runs, as one discriminated union, and the hub that hands it to any number
 * of readers. A reader that does not keep up loses the oldest events and is told how many.
 */

import type { Change } from "./diff.ts";

/** A server went up or down: by its checks, or because it was ejected or its ejection has ended. */
export type ServerEvent = {
  type: "server";
  backend: string;
  server: string;
  addr: string;
  state: "up" | "down";
  /** Why, for people: "3 failed checks, last: connection refused". */
  cause: string;
  /** Servers of its backend that are up now. */
  left: number;
  /** Down because clients' connections to it failed, until then; absent otherwise. */
  ejected_until?: Date;
  at: Date;
};

/** A new configuration was offered, or one that is only tried was confirmed or rolled back. */
export type ReloadEvent = {
  type: "reload";
  /**
   * `rejected`: it was invalid or could not be put in service, and the old one serves on. `confirmed`: what is in
   * service stays. `rolled_back`: nobody confirmed in time, and what was in service before is again.
   */
  result: "applied" | "unchanged" | "rejected" | "confirmed" | "rolled_back";
  /** Where it came from. */
  source: "file" | "update";
  /** Why it was rejected, or what was applied, for people. */
  message: string;
  /** What was applied, by a roll back too. */
  changes: Change[];
  /** Of the configuration in service now; counts from 1. */
  config_version: number;
  /** When it is rolled back unless it is confirmed before; absent when nothing waits for that. */
  confirm_by?: Date;
  at: Date;
};

/** Servers were added, removed or set to other settings at run time. */
export type ServersEvent = {
  type: "servers";
  changes: Change[];
  /** Of the configuration in service now; counts from 1. */
  config_version: number;
  at: Date;
};

/** The weight of a server was set at run time. */
export type WeightEvent = {
  type: "weight";
  backend: string;
  server: string;
  /** The weight in force. */
  weight: number;
  /** Whether it is that of the configuration again. */
  configured: boolean;
  at: Date;
};

/**
 * A server is drained. `scheduled`: after a while, see `jitterMs`; `started`: it takes no new connections; `progress`:
 * connections have ended, at most once a second; `drained`, `deadline`: the end; `cancelled`: it was enabled or
 * replaced, or the balancer closed; `enabled`: it takes new connections again.
 */
export type DrainEvent = {
  type: "drain";
  backend: string;
  server: string;
  state: "scheduled" | "started" | "progress" | "drained" | "deadline" | "cancelled" | "enabled";
  /** Connections still open; absent where they are not counted. */
  connections?: number;
  at: Date;
};

/**
 * What stands for a server that is configured by name has changed, or what DNS says of it. `resolved`: these are its
 * addresses; `none`: DNS says that there are none, and the last ones stay for `resolver.hold_ms`; `failed`: DNS does not
 * answer, and the last ones stay.
 */
export type ResolveEvent = {
  type: "resolve";
  backend: string;
  server: string;
  /** As configured: "app.internal:8080". */
  name: string;
  state: "resolved" | "none" | "failed";
  /** In service now, as "ip:port". */
  addresses: string[];
  added: string[];
  removed: string[];
  /** What went wrong, for people: "app.internal:8080 has no address: no such name (NXDOMAIN)"; "" for nothing. */
  cause: string;
  at: Date;
};

/** The data plane or its surroundings deserve a look; service goes on. */
export type EngineEvent = {
  type: "engine";
  kind: "worker-panicked" | "accept-backoff" | "health-check-suspended" | "warning";
  /** Frontend concerned, or "". */
  frontend: string;
  /** Worker thread concerned, or "". */
  worker: string;
  message: string;
  at: Date;
};

/** Part of the data plane is gone for good; a process that only balances should exit. */
export type FatalEvent = { type: "fatal"; message: string; at: Date };

/** This reader was too slow: so many events before the next one were lost. */
export type DroppedEvent = { type: "dropped"; count: number; at: Date };

/** Everything `events()` may yield. */
export type BalancerEvent =
  | ServerEvent
  | ServersEvent
  | WeightEvent
  | ReloadEvent
  | DrainEvent
  | ResolveEvent
  | EngineEvent
  | FatalEvent
  | DroppedEvent;

/** An event as JSON: times are ISO 8601, everything else as in `BalancerEvent`; what is undefined is absent. */
export type EventJson = BalancerEvent extends infer Event
  ? Event extends object
    ? Json<Event>
    : never
  : never;

type Json<T> = {
  [K in keyof T]: [Extract<T[K], Date>] extends [never] ? T[K] : Exclude<T[K], Date> | string;
};

/** The event as it is sent to others: the shape is stable, fields may come. */
export const eventJson = (event: BalancerEvent): EventJson => JSON.parse(JSON.stringify(event));

/** Events that wait for one reader. */
const QUEUE_LIMIT = 1024;

/** Hands every event to every reader. */
export class EventHub {
  readonly #readers = new Set<Reader>();
  readonly #listeners: ((event: BalancerEvent) => void)[] = [];
  readonly #limit: number;
  #closed = false;

  constructor(limit: number = QUEUE_LIMIT) {
    this.#limit = limit;
  }

  /** Calls `listener` with every event from now on, at once: it misses none and must not throw. */
  listen(listener: (event: BalancerEvent) => void): void {
    this.#listeners.push(listener);
  }

  emit(event: BalancerEvent): void {
    for (const listener of this.#listeners) listener(event);
    for (const reader of this.#readers) reader.push(event);
  }

  /** Events from this moment on. Ends when the hub closes, after what is queued has been read. */
  subscribe(): AsyncIterableIterator<BalancerEvent, undefined> {
    const reader = new Reader(this.#limit, () => this.#readers.delete(reader));
    if (this.#closed) reader.end();
    else this.#readers.add(reader);
    return reader;
  }

  close(): void {
    this.#closed = true;
    for (const reader of this.#readers) reader.end();
    this.#readers.clear();
  }
}

class Reader implements AsyncIterableIterator<BalancerEvent, undefined> {
  readonly #limit: number;
  readonly #onReturn: () => void;
  #queue: BalancerEvent[] = [];
  #waiting: ((result: IteratorResult<BalancerEvent, undefined>) => void)[] = [];
  #dropped = 0;
  #ended = false;

  constructor(limit: number, onReturn: () => void) {
    this.#limit = limit;
    this.#onReturn = onReturn;
  }

  push(event: BalancerEvent): void {
    const waiting = this.#waiting.shift();
    if (waiting !== undefined) {
      waiting({ done: false, value: event });
      return;
    }
    this.#queue.push(event);
    if (this.#queue.length > this.#limit) {
      this.#queue.shift();
      this.#dropped += 1;
    }
  }

  end(): void {
    this.#ended = true;
    for (const waiting of this.#waiting.splice(0)) waiting({ done: true, value: undefined });
  }

  next(): Promise<IteratorResult<BalancerEvent, undefined>> {
    if (this.#dropped > 0) {
      const count = this.#dropped;
      this.#dropped = 0;
      return Promise.resolve({ done: false, value: { type: "dropped", count, at: new Date() } });
    }
    const value = this.#queue.shift();
    if (value !== undefined) return Promise.resolve({ done: false, value });
    if (this.#ended) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  return(): Promise<IteratorResult<BalancerEvent, undefined>> {
    this.#queue = [];
    this.#dropped = 0;
    this.#onReturn();
    this.end();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
