/**
 * Reads every counter once a second while the balancer runs, whoever looks, and keeps 15 minutes of it in bounded
 * memory. Its seconds are counted from its start by the monotonic clock: they do not drift, and a step of the wall
 * clock is not seen. Seconds missed by a blocked loop share the rate measured over them. It keeps no process alive.
 */
import { randomUUID } from "node:crypto";
import type { NativeStats } from "../native/index.ts";
import type { BalancerEvent, DrainEvent } from "./events.ts";
import type { FullFrame, Measure, Point, ServerHistory } from "./frame.ts";
import { type Changes, Picture } from "./picture.ts";
import { rounded, Series } from "./series.ts";
import type { StatsContext } from "./stats.ts";

const PERIOD_MS = 1000;
const SECONDS = 900;
const MEASURES: readonly Measure[] = ["connections", "tx", "rx", "packets", "drops", "refused"];

/** What is read, and the events that tell why servers changed. */
export type SampleSource = {
  read: () => { native: NativeStats; context: StatsContext };
  events: () => AsyncIterable<BalancerEvent>;
};

/** What one second brought; `changes` is absent when a full picture is due. */
export type Sample = { at: number; changes: Changes | undefined; point: Point };

/** See the module's head. */
export class Sampler {
  readonly #source: SampleSource;
  readonly #onSample: (sample: Sample) => void;
  readonly #now: () => number;
  readonly #picture = new Picture();
  readonly #instance = randomUUID().slice(0, 8);
  readonly #series = new Map(MEASURES.map((name) => [name, new Series(new Float64Array(SECONDS))]));
  #totals: Totals | undefined;
  #startedAt = 0;
  /** When uptime began. */
  #zero = 0;
  #seconds = 0;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  /** `now` counts milliseconds and never goes back. */
  constructor(
    source: SampleSource,
    onSample: (sample: Sample) => void,
    now: () => number = () => performance.now(),
  ) {
    this.#source = source;
    this.#onSample = onSample;
    this.#now = now;
  }

  start(): void {
    if (this.#closed) return;
    this.#startedAt = this.#now();
    void this.#follow(this.#source.events());
    this.sample();
    this.#arm();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  /** Everything as of the latest sample; undefined before the first. */
  full(): FullFrame | undefined {
    const picture = this.#picture.full();
    if (picture === undefined) return undefined;
    const values = Object.fromEntries([...this.#series].map(([name, series]) => [name, series.toArray()]));
    const history = { ...(values as Record<Measure, never>), backends: this.#picture.backendsOverTime() };
    return { ...picture, instance: this.#instance, history };
  }

  /** What is kept of `backend/server`. */
  history(key: string): ServerHistory | undefined {
    return this.#picture.history(key);
  }

  /** Reads now. Seconds that passed since the last time and were missed are filled in. */
  sample(): void {
    const { native, context } = this.#source.read();
    const now = this.#now();
    const second = Math.round((now - this.#startedAt) / PERIOD_MS);
    const passed = second - this.#seconds;
    this.#seconds = second;
    this.#zero = context.startedAt;
    const at = this.#uptime(now);
    const totals = totalsOf(native, context, at);
    const point = rates(this.#totals, totals);
    this.#totals = totals;
    for (const [name, series] of this.#series) series.push(point[name] ?? undefined, passed);
    const changes = this.#picture.renew(native, context, at, passed);
    this.#onSample({ at, changes, point });
  }

  #arm(): void {
    const due = this.#startedAt + (this.#seconds + 1) * PERIOD_MS;
    this.#timer = setTimeout(() => {
      try {
        this.sample();
      } finally {
        if (!this.#closed) this.#arm();
      }
    }, due - this.#now());
    this.#timer.unref();
  }

  async #follow(events: AsyncIterable<BalancerEvent>): Promise<void> {
    for await (const event of events) {
      if (this.#closed) return;
      if (event.type !== "server" && event.type !== "drain") continue;
      const health = this.#picture.health(`${event.backend}/${event.server}`);
      if (health === undefined) continue;
      const at = this.#uptime(this.#now());
      if (event.type === "server") {
        health.note(event.state === "up" && health.draining ? "draining" : event.state, event.cause, at);
        continue;
      }
      const why = drainWording(event);
      if (why !== undefined && health.current.state !== "down") health.note("draining", why, at);
    }
  }

  #uptime(now: number): number {
    return Math.round(now - this.#zero) / 1000;
  }
}

type Totals = { at: number } & Record<Measure, number | undefined>;

function totalsOf(native: NativeStats, context: StatsContext, at: number): Totals {
  const { counters, packet, reasons } = native;
  const sum = (list: readonly { count: number }[]): number => list.reduce((n, { count }) => n + count, 0);
  return {
    at,
    connections: counters.totalConnections,
    tx: counters.bytesTx,
    rx: context.mode === "dsr" ? undefined : counters.bytesRx,
    packets: packet?.forwarded,
    drops: packet && sum(packet.dropped),
    refused: sum(reasons),
  };
}

function rates(before: Totals | undefined, now: Totals): Point {
  const elapsed = now.at - (before?.at ?? now.at);
  const per = (name: Measure): number | null => {
    const [from, to] = [before?.[name], now[name]];
    return from === undefined || to === undefined || elapsed <= 0
      ? null
      : rounded(Math.max(0, to - from) / elapsed);
  };
  return Object.fromEntries(MEASURES.map((name) => [name, per(name)])) as Point;
}

/** Why a server is draining; undefined for what says nothing new, or that it no longer is. */
function drainWording({ state, connections }: DrainEvent): string | undefined {
  switch (state) {
    case "started":
      return "being drained";
    case "drained":
      return "drained: no connection is left";
    case "deadline":
      return `the drain's deadline has passed${connections === undefined ? "" : `, ${connections} open`}`;
    default:
      return undefined;
  }
}
