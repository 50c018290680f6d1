/**
 * What a live reader gets: a full picture first and after every change of the configuration, then once a second what
 * differs from the frame before. One shape for the dashboard and for programs; `/api/v1/live` sends it.
 *
 * Every time is seconds of the balancer's uptime, so that a step of anybody's wall clock changes nothing: something
 * happened `frame.at - row.since` seconds ago.
 */
import type { Mode } from "../config/schema.ts";
import type { Reasons, Stats } from "./stats.ts";

export type Frame = FullFrame | DeltaFrame;

/** Everything, as of `at`. */
export type FullFrame = {
  type: "full";
  /** Another one after a restart of the balancer. */
  instance: string;
  at: number;
  overview: Overview;
  frontends: (FrontendRow & Rated)[];
  /** In the order of the rows' indexes; servers are counted through over all backends. */
  backends: (BackendRow & Rated & { servers: (ServerRow & Rated)[] })[];
  history: History;
};

/**
 * What has changed since the frame before; also sent when nothing has, as a sign of life. Each entry is the index of
 * a row in the full picture and its new fields. Rates are not told: they are the difference of the totals over that of
 * `at`, and 0 for rows left out.
 */
export type DeltaFrame = {
  type: "delta";
  at: number;
  overview: Partial<Overview>;
  frontends: Changed<FrontendRow>[];
  backends: Changed<BackendRow>[];
  servers: Changed<ServerRow>[];
  point: Point;
};

/** Index and new fields. */
export type Changed<Row> = [number, Partial<Row>];

/** `/stats` without its frontends, backends and uptime. */
export type Overview = Omit<Stats, "backends" | "frontends" | "uptime_seconds"> & { mode: Mode };

/** Connections are absent where they are not counted; `rx` is null where answers do not pass the balancer. */
export type Counted = { open?: number; total?: number; tx: number; rx: number | null };

/** Connections and bytes per second, absent or null as in `Counted`. */
export type Rated = { rates: { connections?: number; tx: number; rx: number | null } };

export type FrontendRow = Counted & {
  name: string;
  address: string;
  backend: string;
  /** Every backend that it may send to, its own first. */
  backends: readonly string[];
  reasons: Reasons;
};

/** Connections that wait now, those that have waited or wait, and those that waited in vain; absent where none can. */
export type BackendRow = Counted & {
  name: string;
  balance: string;
  waiting?: number;
  waited?: number;
  waited_in_vain?: number;
};

export type ServerState = "up" | "down" | "draining";

export type ServerRow = Counted & {
  name: string;
  addr: string;
  state: ServerState;
  /** Why it is in this state, for people. */
  why: string;
  /** When it came into it. */
  since: number;
  weight: number;
  /** How much of its weight counts: 1, or less in slow start. */
  part: number;
  /** Gets connections only while no other server can take one. */
  backup: boolean;
  /** The latest finished check; null before the first. */
  check: { ok: boolean; answer: string; ms: number; at: number } | null;
  /** Latest checks, oldest first, of each second the last: "+" passed, "-" failed. At most `STRIP` of them. */
  strip: string;
  reasons: Reasons;
};

/** Checks in a row's strip. */
export const STRIP = 24;

/** Up to 15 minutes, a value a second, the newest last; null for what is not counted. */
export type History = Record<Measure, Values> & {
  /** Open connections of the backends that had most, at most 8. */
  backends: { name: string; open: Values }[];
};

export type Values = (number | null)[];

/** Per second: connections begun, bytes to servers and to clients, packets forwarded and dropped, refusals. */
export type Measure = "connections" | "tx" | "rx" | "packets" | "drops" | "refused";

/** The newest value of each. */
export type Point = Record<Measure, number | null>;

/** What is kept of one server: `/api/v1/live/servers/{backend}/{server}`. */
export type ServerHistory = {
  at: number;
  /** Seconds between two values. */
  step: number;
  connections: Values;
  tx: Values;
  rx: Values;
  /** Latest changes of its state, the newest last. */
  changes: StateChange[];
};

export type StateChange = { at: number; state: ServerState; why: string };
