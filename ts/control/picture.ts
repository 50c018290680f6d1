/** The rows of the latest sample, and frames made of them. Rows are renewed in place; a frame tells what differed. */
import { serverKey, WHOLE_SHARE } from "../config/lower.ts";
import type { NativeCounters, NativeQueueStats, NativeReason, NativeStats } from "../native/index.ts";
import type {
  BackendRow,
  Changed,
  Counted,
  DeltaFrame,
  FrontendRow,
  FullFrame,
  Overview,
  Rated,
  ServerHistory,
  ServerRow,
} from "./frame.ts";
import { HealthHistory, stateOf } from "./health-history.ts";
import { rounded, Series } from "./series.ts";
import { isUp, weightOf } from "./states.ts";
import { overview, type StatsContext } from "./stats.ts";

/** A server's rates are kept for 15 minutes, a value for each of these. */
const STEP_SECONDS = 15;
const STEPS = 60;
/** A backend's open connections, a value a second. */
const SECONDS = 900;
/** Of a frontend that is going. One array, so that it is the same from sample to sample. */
const NONE: readonly string[] = [];
/** Backends whose open connections a full picture tells over time. */
const BACKENDS_OVER_TIME = 8;

type Kept<Row> = { row: Row; rates: Rated["rates"] };
type KeptBackend = Kept<BackendRow> & { open: Series };
type KeptServer = Kept<ServerRow> & {
  key: string;
  health: HealthHistory;
  /** Connections, bytes to the server, bytes from it. */
  over: readonly [Series, Series, Series];
  /** Totals when the step began. */
  base: readonly [number, number, number];
};

/** What differed between two samples. */
export type Changes = Pick<DeltaFrame, "overview" | "frontends" | "backends" | "servers">;

/** See the module's head. */
export class Picture {
  #overview: Overview | undefined;
  /** Each field of the overview as JSON, to tell whether it has changed. */
  readonly #fields = new Map<string, string>();
  #frontends: Kept<FrontendRow>[] = [];
  #backends: KeptBackend[] = [];
  #servers: KeptServer[] = [];
  /** How many servers each backend has. */
  #sizes: number[] = [];
  readonly #health = new Map<string, HealthHistory>();
  #version = 0;
  #at = 0;
  #stepAt = 0;

  /** Whether the rows are others, or another configuration is in service, so that a full picture is due. */
  isOther(native: NativeStats, context: StatsContext): boolean {
    return context.configVersion !== this.#version || !this.#fits(native);
  }

  /**
   * Takes a sample made at `at` seconds of uptime; `steps` is how many seconds it stands for. Returns what differed,
   * or undefined when a full picture is due.
   */
  renew(native: NativeStats, context: StatsContext, at: number, steps: number): Changes | undefined {
    const elapsed = at - this.#at;
    const full = this.isOther(native, context);
    if (full) this.#rebuild(native, context, at);
    const visible = context.mode !== "dsr";
    const changes: Changes = { overview: {}, frontends: [], backends: [], servers: [] };
    this.#renewOverview(overview(native, context), changes.overview);
    native.frontends.forEach((frontend, i) => {
      const kept = this.#frontends[i] as Kept<FrontendRow>;
      const now = counted(frontend.counters, visible);
      rate(kept, now, elapsed);
      const { reasons } = kept.row;
      note(changes.frontends, i, kept.row, {
        ...now,
        address: frontend.address,
        backend: context.routes.get(frontend.name)?.[0] ?? "",
        backends: context.routes.get(frontend.name) ?? NONE,
        reasons: same(reasons, frontend.reasons) ? reasons : table(frontend.reasons),
      });
    });
    const endOfStep = at - this.#stepAt >= STEP_SECONDS;
    let index = 0;
    native.backends.forEach((backend, i) => {
      const kept = this.#backends[i] as KeptBackend;
      const now = { ...counted(backend.counters, visible), ...queued(backend.queue) };
      rate(kept, now, elapsed);
      kept.open.push(now.open, steps);
      note(changes.backends, i, kept.row, { ...now, balance: backend.balance });
      for (const server of backend.servers) {
        const one = this.#servers[index] as KeptServer;
        const record = context.records.get(one.key);
        const { health, row } = one;
        health.renew(
          stateOf(record === undefined ? server : { up: isUp(record), draining: record.draining }),
          context.lastCheck(one.key),
          at,
        );
        const count = counted(server.counters, visible);
        rate(one, count, elapsed);
        if (endOfStep) step(one, count, at - this.#stepAt);
        const weight = record === undefined ? server.weight : weightOf(record);
        const part = (record?.share ?? WHOLE_SHARE) / WHOLE_SHARE;
        const patch = renewServer(
          row,
          count,
          health,
          { weight, part, backup: server.backup },
          server.reasons,
        );
        if (patch !== undefined) changes.servers.push([index, patch]);
        index += 1;
      }
    });
    if (endOfStep) this.#stepAt = at;
    this.#at = at;
    return full ? undefined : changes;
  }

  /** The health history of `backend/server`. */
  health(key: string): HealthHistory | undefined {
    return this.#health.get(key);
  }

  /** Everything as of the latest sample; undefined before the first. */
  full(): Omit<FullFrame, "instance" | "history"> | undefined {
    if (this.#overview === undefined) return undefined;
    let next = 0;
    const backends = this.#backends.map((kept, i) => {
      const servers = this.#servers.slice(next, next + (this.#sizes[i] ?? 0)).map(rated);
      next += servers.length;
      return { ...rated(kept), servers };
    });
    return {
      type: "full",
      at: this.#at,
      overview: this.#overview,
      frontends: this.#frontends.map(rated),
      backends,
    };
  }

  /** Open connections over time of the backends that had most. */
  backendsOverTime(): FullFrame["history"]["backends"] {
    return this.#backends
      .filter(({ row }) => row.open !== undefined)
      .map((kept) => ({ kept, most: kept.open.max() }))
      .sort((a, b) => b.most - a.most)
      .slice(0, BACKENDS_OVER_TIME)
      .map(({ kept }) => ({ name: kept.row.name, open: kept.open.toArray() }));
  }

  /** What is kept of one server. */
  history(key: string): ServerHistory | undefined {
    const kept = this.#servers.find((one) => one.key === key);
    if (kept === undefined) return undefined;
    const [connections, tx, rx] = kept.over.map((series) => series.toArray()) as [never, never, never];
    return { at: this.#at, step: STEP_SECONDS, connections, tx, rx, changes: kept.health.changes };
  }

  #fits(native: NativeStats): boolean {
    let index = 0;
    return (
      native.frontends.length === this.#frontends.length &&
      native.backends.length === this.#backends.length &&
      native.frontends.every(({ name }, i) => this.#frontends[i]?.row.name === name) &&
      native.backends.every(
        ({ name, servers }, i) =>
          this.#backends[i]?.row.name === name &&
          this.#sizes[i] === servers.length &&
          servers.every((server) => {
            const row = this.#servers[index++]?.row;
            return row?.name === server.name && row.addr === server.addr;
          }),
      )
    );
  }

  /** Rows of names that stay go on with what was measured; a server at another address is another one. */
  #rebuild(native: NativeStats, context: StatsContext, at: number): void {
    const frontends = new Map(this.#frontends.map((kept) => [kept.row.name, kept]));
    const backends = new Map(this.#backends.map((kept) => [kept.row.name, kept]));
    const servers = new Map(this.#servers.map((kept) => [kept.key, kept]));
    const visible = context.mode !== "dsr";
    if (this.#version === 0) this.#stepAt = at;
    this.#version = context.configVersion;
    this.#frontends = native.frontends.map(
      ({ name, address, counters }) =>
        frontends.get(name) ?? {
          row: { name, address, backend: "", backends: NONE, ...counted(counters, visible), reasons: {} },
          rates: none(visible),
        },
    );
    this.#sizes = native.backends.map((backend) => backend.servers.length);
    this.#backends = native.backends.map(
      ({ name, balance, counters, queue }) =>
        backends.get(name) ?? {
          row: { name, balance, ...counted(counters, visible), ...queued(queue) },
          rates: none(visible),
          open: new Series(new Float32Array(SECONDS)),
        },
    );
    this.#servers = native.backends.flatMap((backend) =>
      backend.servers.map(({ name, addr, counters, up, draining, weight, backup }) => {
        const key = serverKey(backend.name, name);
        const old = servers.get(key);
        if (old?.row.addr === addr) return old;
        const record = context.records.get(key);
        const state = stateOf(record ?? { up, draining });
        const health = new HealthHistory(addr, state, at);
        const now = counted(counters, visible);
        const { why } = health.current;
        return {
          key,
          health,
          row: {
            ...{ name, addr, state, why, since: at, weight, part: 1, backup },
            ...{ ...now, check: null, strip: "", reasons: {} },
          },
          rates: none(visible),
          over: [series(), series(), series()] as const,
          base: [now.total ?? 0, now.tx, now.rx ?? 0] as const,
        };
      }),
    );
    this.#health.clear();
    for (const { key, health } of this.#servers) this.#health.set(key, health);
  }

  #renewOverview(next: Overview, changes: Partial<Overview>): void {
    this.#overview = next;
    for (const [field, value] of Object.entries(next)) {
      const text = JSON.stringify(value);
      if (this.#fields.get(field) === text) continue;
      this.#fields.set(field, text);
      Object.assign(changes, { [field]: value });
    }
  }
}

const series = (): Series => new Series(new Float32Array(STEPS));

const none = (visible: boolean): Rated["rates"] => ({ tx: 0, rx: visible ? 0 : null });

const rated = <Row extends object>({ row, rates }: Kept<Row>): Row & Rated => ({ ...row, rates });

function counted(native: NativeCounters, visible: boolean): Counted {
  const { totalConnections: total, currentConnections: open, bytesTx: tx, bytesRx } = native;
  const rx = visible ? bytesRx : null;
  return total === undefined || open === undefined ? { tx, rx } : { open, total, tx, rx };
}

function queued(native: NativeQueueStats | undefined): Partial<BackendRow> {
  if (native === undefined) return {};
  const { waiting, total, timedOut, refused } = native;
  return { waiting, waited: total, waited_in_vain: timedOut + refused };
}

/** Before the row is renewed: counters of a name that came back may have begun anew. */
function rate({ row, rates }: Kept<Counted>, now: Counted, elapsed: number): void {
  const per = (to: number, from: number): number =>
    elapsed > 0 ? rounded(Math.max(0, to - from) / elapsed) : 0;
  if (now.total !== undefined) rates.connections = per(now.total, row.total ?? 0);
  rates.tx = per(now.tx, row.tx);
  rates.rx = now.rx === null ? null : per(now.rx, row.rx ?? 0);
}

function step(kept: KeptServer, now: Counted, seconds: number): void {
  const totals = [now.total ?? 0, now.tx, now.rx ?? 0] as const;
  const counts = [now.total !== undefined, true, now.rx !== null];
  kept.over.forEach((one, i) => {
    const more = Math.max(0, (totals[i] as number) - (kept.base[i] as number));
    one.push(counts[i] ? more / seconds : undefined);
  });
  kept.base = totals;
}

/** As `note()`, field by field: this is done for every server each second. */
function renewServer(
  row: ServerRow,
  { open, total, tx, rx }: Counted,
  health: HealthHistory,
  { weight, part, backup }: Pick<ServerRow, "weight" | "part" | "backup">,
  native: readonly NativeReason[],
): Partial<ServerRow> | undefined {
  let patch: Partial<ServerRow> | undefined;
  const { current, check, strip } = health;
  const reasons = same(row.reasons, native) ? row.reasons : table(native);
  const set = <Field extends keyof ServerRow>(field: Field, value: ServerRow[Field]): void => {
    row[field] = value;
    patch ??= {};
    patch[field] = value;
  };
  if (open !== undefined && row.open !== open) set("open", open);
  if (total !== undefined && row.total !== total) set("total", total);
  if (row.tx !== tx) set("tx", tx);
  if (row.rx !== rx) set("rx", rx);
  if (row.state !== current.state) set("state", current.state);
  if (row.why !== current.why) set("why", current.why);
  if (row.since !== current.at) set("since", current.at);
  if (row.weight !== weight) set("weight", weight);
  if (row.part !== part) set("part", part);
  if (row.backup !== backup) set("backup", backup);
  if (row.check !== check) set("check", check);
  if (row.strip !== strip) set("strip", strip);
  if (row.reasons !== reasons) set("reasons", reasons);
  return patch;
}

/** Renews `row` and notes what differed. */
function note<Row extends object>(
  changes: Changed<Row>[],
  index: number,
  row: Row,
  next: Partial<Row>,
): void {
  let patch: Partial<Row> | undefined;
  for (const field in next) {
    if (row[field] === next[field]) continue;
    row[field] = next[field] as Row[typeof field];
    patch ??= {};
    patch[field] = next[field] as Row[typeof field];
  }
  if (patch !== undefined) changes.push([index, patch]);
}

const table = (reasons: readonly NativeReason[]): Record<string, number> =>
  Object.fromEntries(reasons.map(({ reason, count }) => [reason, count]));

function same(known: Record<string, number>, reasons: readonly NativeReason[]): boolean {
  return reasons.every(({ reason, count }) => known[reason] === count);
}
