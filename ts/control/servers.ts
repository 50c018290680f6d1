/**
 * The servers of a running balancer: their records, what operators and health checks change in them, and
 * telling the data plane. Every change is in the data plane before anyone is told of it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { BackendConfig, Config } from "../config/schema.ts";
import { ConveyError, type Dataplane } from "../native/index.ts";
import { Ejections, whyNot } from "./ejection.ts";
import type { DrainEvent } from "./events.ts";
import type { Reporter } from "./narrate.ts";
import { Resets } from "./resets.ts";
import { SlowStarts, settle } from "./slow-start.ts";
import { carryOver, isUp, type ServerRecord, type ServerRecords, toUpdate, weightOf } from "./states.ts";

/** How often the connections of a draining server are counted. */
const POLL_MS = 50;
/** How often progress is told at most. */
const PROGRESS_MS = 1000;
/** A day, as in the configuration. */
const LONGEST_MS = 86_400_000;

/** How a drain ended; connections are absent where nobody counts them. */
export type DrainEnd = { state: "drained" | "deadline" | "cancelled"; connections?: number };

/** A change of one server in this turn of the loop. */
type Transition = {
  cause: string;
  /** As it was told last. */
  before: { up: boolean; ejected: boolean };
  /** Whether checks are behind it. */
  byCheck: boolean;
};

/** See the module's head. */
export class ServerTable {
  readonly #dataplane: Dataplane;
  readonly #reporter: Reporter;
  #records: ServerRecords;
  readonly #settings: (backend: string) => BackendConfig | undefined;
  readonly #ejections = new Ejections((key) => this.#eject(key, undefined, "its ejection has ended"));
  readonly #resets: Resets;
  /** Health changes of this turn of the loop. */
  readonly #transitions = new Map<string, Transition>();
  /** Drains that have not begun yet. */
  readonly #scheduled = new Set<{ key: string; cancel: AbortController }>();
  readonly #slowStarts: SlowStarts;
  #closed = false;

  /** `settings` are those of a backend now. */
  constructor(
    records: ServerRecords,
    dataplane: Dataplane,
    reporter: Reporter,
    settings: (backend: string) => BackendConfig | undefined,
  ) {
    this.#records = records;
    this.#settings = settings;
    this.#resets = new Resets(dataplane, reporter);
    this.#dataplane = dataplane;
    this.#reporter = reporter;
    this.#slowStarts = new SlowStarts(
      () => this.#records.values(),
      (changed) => void this.#publish(changed, "weights"),
    );
  }

  get records(): ServerRecords {
    return this.#records;
  }

  /** The records as they would be under `config`; nothing changes. Servers that come back are as in `earlier`. */
  under(config: Config, earlier?: ServerRecords): ServerRecords {
    const records = carryOver(config, this.#records, earlier);
    for (const record of records.values()) settle(record);
    return records;
  }

  /** Goes by `records` from now on, which the data plane has. */
  replace(records: ServerRecords): void {
    this.#records = records;
    this.#ejections.follow(records);
    this.#slowStarts.arm();
  }

  /** Gives servers in slow start their whole weight: what forwards goes on without this process. */
  finishSlowStarts(): void {
    this.#slowStarts.finish();
  }

  /** Ends every drain; no call is answered any more. */
  close(): void {
    this.#closed = true;
    this.#slowStarts.close();
    this.#ejections.close();
    this.#resets.close();
    for (const { cancel } of this.#scheduled) cancel.abort();
  }

  /** See `Balancer.drain()`. */
  async drain(name: string, deadlineMs: number, jitterMs = 0): Promise<DrainEnd> {
    for (const [what, value] of Object.entries({ deadlineMs, jitterMs })) {
      if (Number.isFinite(value) && value >= 0 && value <= LONGEST_MS) continue;
      throw new ConveyError("CONFIG_INVALID", `${what}: ${value} is no number from 0 to ${LONGEST_MS}`);
    }
    const record = this.#record(name);
    const isCounted = this.#dataplane.openConnections() !== null;
    // Where nobody counts connections, some may be open until the deadline.
    const gauge = this.#dataplane.serverGauge(record.backend, record.server);
    const open = (): number | undefined => (isCounted ? (gauge?.open() ?? 0) : undefined);
    const tell = (state: DrainEvent["state"], connections = open()) =>
      this.#tellDrain(record, state, connections);
    const end = (state: DrainEnd["state"]): DrainEnd => {
      const connections = open();
      tell(state, connections);
      return { state, ...counted(connections) };
    };
    if (jitterMs > 0) {
      tell("scheduled");
      if (!(await this.#wait(record.key, Math.random() * jitterMs))) return end("cancelled");
    }
    const now = this.#records.get(record.key);
    if (now !== undefined && now.addr === record.addr) {
      now.draining = true;
      this.#push(now);
    }
    const deadline = performance.now() + deadlineMs;
    let told = { connections: open(), at: performance.now() };
    tell("started", told.connections);
    for (;;) {
      const now = this.#records.get(record.key);
      // One that a reload removed is drained all the more: its connections are counted on.
      const wanted = now === undefined || (now.draining && now.addr === record.addr);
      if (!wanted || this.#closed) return end("cancelled");
      const connections = open();
      if (connections === 0) return end("drained");
      const left = deadline - performance.now();
      if (left <= 0) return end("deadline");
      if (connections !== told.connections && performance.now() - told.at >= PROGRESS_MS) {
        told = { connections, at: performance.now() };
        tell("progress", connections);
      }
      await sleep(Math.min(POLL_MS, left));
    }
  }

  /** See `Balancer.enable()`. */
  enable(name: string): void {
    const record = this.#record(name);
    for (const scheduled of this.#scheduled) if (scheduled.key === record.key) scheduled.cancel.abort();
    record.draining = false;
    if (record.ejection !== undefined) this.#eject(record.key, undefined, "enabled");
    this.#push(record);
    this.#tellDrain(record, "enabled", undefined);
  }

  /** See `Balancer.setWeight()`. */
  setWeight(name: string, weight: number | null): void {
    const record = this.#record(name);
    if (weight !== null && !(Number.isInteger(weight) && weight >= 0 && weight <= 65535)) {
      throw new ConveyError("CONFIG_INVALID", `weight of ${name}: ${weight} is no integer from 0 to 65535`);
    }
    record.weightOverride = weight ?? undefined;
    this.#push(record);
    const { backend, server } = record;
    const configured = weight === null;
    this.#reporter.emit({
      type: "weight",
      backend,
      server,
      weight: weightOf(record),
      configured,
      at: new Date(),
    });
  }

  /** Resolves with whether the time has passed without the drain being called off. */
  async #wait(key: string, ms: number): Promise<boolean> {
    const scheduled = { key, cancel: new AbortController() };
    this.#scheduled.add(scheduled);
    try {
      await sleep(ms, undefined, { signal: scheduled.cancel.signal });
      return true;
    } catch {
      return false;
    } finally {
      this.#scheduled.delete(scheduled);
    }
  }

  /** A health check changed its mind. All changes of one turn of the loop reach the data plane in one call. */
  transition(key: string, up: boolean, cause: string): void {
    const record = this.#records.get(key);
    if (record === undefined) return;
    this.#note(record, cause, { byCheck: true });
    record.up = up;
  }

  /** As many connections to it have failed in a row as its backend allows: it is kept out for a while, if it may be. */
  failing(key: string, cause: string): void {
    const record = this.#records.get(key);
    const settings = record && this.#settings(record.backend);
    // What comes late is about one that is out already, or about settings of before.
    if (record === undefined || settings === undefined || settings.eject_after === 0 || !isUp(record)) return;
    const refused = whyNot(record, this.#records, settings);
    if (refused !== undefined) {
      this.#reporter.engine("warning", `server ${key} is not ejected: ${refused} (${cause})`);
      return;
    }
    const until = new Date(Date.now() + settings.eject_ms);
    this.#eject(key, { until, cause }, `ejected for ${settings.eject_ms} ms: ${cause}`);
  }

  #eject(key: string, ejection: ServerRecord["ejection"], cause: string): void {
    const record = this.#records.get(key);
    if (record === undefined || this.#closed) return;
    this.#note(record, cause, { byCheck: false });
    record.ejection = ejection;
    this.#ejections.follow(this.#records);
  }

  /** `record` is about to change. */
  #note(record: ServerRecord, cause: string, { byCheck }: { byCheck: boolean }): void {
    if (this.#transitions.size === 0) setImmediate(() => this.#publishTransitions());
    const earlier = this.#transitions.get(record.key);
    const before = earlier?.before ?? { up: isUp(record), ejected: record.ejection !== undefined };
    this.#transitions.set(record.key, { cause, before, byCheck: byCheck || earlier?.byCheck === true });
  }

  #publishTransitions(): void {
    const changed = [...this.#transitions].flatMap(([key, transition]) => {
      const record = this.#records.get(key);
      return record === undefined ? [] : [{ record, ...transition }];
    });
    this.#transitions.clear();
    if (changed.length === 0) return;
    const records = changed.map(({ record }) => record);
    // At the end nobody will be there to take the steps of a slow start.
    for (const record of records) settle(record, this.#closed ? Number.POSITIVE_INFINITY : undefined);
    if (!this.#publish(records, "health changes")) return;
    if (!this.#closed) this.#slowStarts.arm();
    // What checks find about one that is out anyway is told when its ejection ends.
    const told = changed.filter(
      ({ record, before }) =>
        before.up !== isUp(record) || before.ejected !== (record.ejection !== undefined),
    );
    const left = new Map<string, number>();
    for (const record of this.#records.values())
      left.set(record.backend, (left.get(record.backend) ?? 0) + Number(isUp(record)));
    // Told one after another: those that are told later still count as they were.
    for (const { record, before } of told)
      left.set(record.backend, (left.get(record.backend) ?? 0) + Number(before.up) - Number(isUp(record)));
    const at = new Date();
    for (const { record, cause, before } of told) {
      const { backend, server, addr, ejection } = record;
      const up = isUp(record);
      const now = (left.get(backend) ?? 0) + Number(up) - Number(before.up);
      left.set(backend, now);
      this.#reporter.emit({
        type: "server",
        backend,
        server,
        addr,
        state: up ? "up" : "down",
        cause: !up && ejection === undefined && before.ejected ? `${cause}, and checks fail` : cause,
        left: now,
        ...(ejection && { ejected_until: ejection.until }),
        at,
      });
    }
    for (const { record, byCheck } of changed) {
      const settings = this.#settings(record.backend);
      if (!byCheck || record.up || settings?.on_down !== "reset") continue;
      this.#resets.begin(record, settings, () => this.#records.get(record.key));
    }
  }

  #record(name: string): ServerRecord {
    if (this.#closed) throw new ConveyError("CLOSED", "this balancer was closed");
    const record = this.#records.get(name);
    if (record !== undefined) return record;
    throw noServer(name);
  }

  #push(record: ServerRecord): void {
    settle(record);
    this.#dataplane.setServers([toUpdate(record)]);
    this.#slowStarts.arm();
  }

  /** From a timer or a socket, where nobody could be thrown at. Returns whether the data plane has it. */
  #publish(records: readonly ServerRecord[], what: string): boolean {
    try {
      // Also while open connections are waited for: clients that wait may get a server yet.
      this.#dataplane.setServers(records.map(toUpdate));
      return true;
    } catch (error) {
      if (this.#closed) return false;
      const why = error instanceof Error ? error.message : String(error);
      this.#reporter.fatal(`the data plane takes no ${what}: ${why}`);
      return false;
    }
  }

  #tellDrain(record: ServerRecord, state: DrainEvent["state"], connections: number | undefined): void {
    const { backend, server } = record;
    this.#reporter.emit({ type: "drain", backend, server, state, ...counted(connections), at: new Date() });
  }
}

/** How the drains of one or more servers ended together. */
export function drainEndOf(ends: readonly DrainEnd[]): DrainEnd {
  const [first, ...others] = ends;
  if (first !== undefined && others.length === 0) return first;
  const states = ends.map(({ state }) => state);
  const state = (["cancelled", "deadline"] as const).find((it) => states.includes(it)) ?? "drained";
  const open = ends.map(({ connections }) => connections);
  return open.includes(undefined)
    ? { state }
    : { state, connections: open.reduce<number>((sum, it) => sum + (it ?? 0), 0) };
}

export const noServer = (name: string): ConveyError =>
  new ConveyError("NOT_FOUND", `no server is named "${name}"; servers are named backend/server`);

const counted = (connections: number | undefined): { connections?: number } =>
  connections === undefined ? {} : { connections };
