/**
 * The servers of a running balancer: their records, what operators and health checks change in them, and
 * telling the data plane. Every change is in the data plane before anyone is told of it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Config } from "../config/schema.ts";
import { ConveyError, type Dataplane } from "../native/index.ts";
import type { DrainEvent } from "./events.ts";
import type { Reporter } from "./narrate.ts";
import type { DrainResult } from "./options.ts";
import { carryOver, type ServerRecord, type ServerRecords, toUpdate } from "./states.ts";

/** How often the connections of a draining server are counted. */
const POLL_MS = 50;

/** See the module's head. */
export class ServerTable {
  readonly #dataplane: Dataplane;
  readonly #reporter: Reporter;
  #records: ServerRecords;
  /** Health changes of this turn of the loop, with their causes. */
  readonly #transitions = new Map<string, string>();
  #closed = false;

  constructor(records: ServerRecords, dataplane: Dataplane, reporter: Reporter) {
    this.#records = records;
    this.#dataplane = dataplane;
    this.#reporter = reporter;
  }

  get records(): ServerRecords {
    return this.#records;
  }

  /** The records as they would be under `config`; nothing changes. */
  under(config: Config): ServerRecords {
    return carryOver(config, this.#records);
  }

  /** Goes by `records` from now on, which the data plane has. */
  replace(records: ServerRecords): void {
    this.#records = records;
  }

  /** Ends every drain; no call is answered any more. */
  close(): void {
    this.#closed = true;
  }

  /** See `Balancer.drain()`. */
  async drain(name: string, deadlineMs: number): Promise<DrainResult> {
    const record = this.#record(name);
    // Where nobody counts connections, some may be open until the deadline.
    const gauge = this.#dataplane.serverGauge(record.backend, record.server);
    const isCounted = this.#dataplane.openConnections() !== null;
    const open = (): number | undefined => (isCounted ? (gauge?.open() ?? 0) : undefined);
    const deadline = performance.now() + deadlineMs;
    record.draining = true;
    this.#push(record);
    const end = (state: DrainEvent["state"]): DrainResult => {
      const connections = open();
      this.#tellDrain(record, state, connections);
      return { drained: state === "drained", ...counted(connections) };
    };
    this.#tellDrain(record, "started", open());
    for (;;) {
      const now = this.#records.get(record.key);
      // One that a reload removed is drained all the more: its connections are counted on.
      const wanted = now === undefined || (now.draining && now.addr === record.addr);
      if (!wanted || this.#closed) return end("cancelled");
      if (open() === 0) return end("drained");
      const left = deadline - performance.now();
      if (left <= 0) return end("deadline");
      await sleep(Math.min(POLL_MS, left));
    }
  }

  /** See `Balancer.enable()`. */
  enable(name: string): void {
    const record = this.#record(name);
    record.draining = false;
    this.#push(record);
    this.#reporter.info({ backend: record.backend, server: record.server }, "server enabled");
  }

  /** See `Balancer.setWeight()`. */
  setWeight(name: string, weight: number | null): void {
    const record = this.#record(name);
    if (weight !== null && !(Number.isInteger(weight) && weight >= 0 && weight <= 65535)) {
      throw new ConveyError("CONFIG_INVALID", `weight of ${name}: ${weight} is no integer from 0 to 65535`);
    }
    record.weightOverride = weight ?? undefined;
    this.#push(record);
    this.#reporter.info({ backend: record.backend, server: record.server, weight }, "weight set");
  }

  /** A health check changed its mind. All changes of one turn of the loop reach the data plane in one call. */
  transition(key: string, up: boolean, cause: string): void {
    const record = this.#records.get(key);
    if (record === undefined) return;
    record.up = up;
    if (this.#transitions.size === 0) setImmediate(() => this.#publishTransitions());
    this.#transitions.set(key, cause);
  }

  #publishTransitions(): void {
    const changed = [...this.#transitions].flatMap(([key, cause]) => {
      const record = this.#records.get(key);
      return record === undefined ? [] : [{ record, cause }];
    });
    this.#transitions.clear();
    if (changed.length === 0) return;
    try {
      this.#dataplane.setServers(changed.map(({ record }) => toUpdate(record)));
    } catch (error) {
      if (this.#closed) return;
      const why = error instanceof Error ? error.message : String(error);
      this.#reporter.fatal(`the data plane takes no health changes: ${why}`);
      return;
    }
    const left = new Map<string, number>();
    for (const { backend, up } of this.#records.values())
      left.set(backend, (left.get(backend) ?? 0) + Number(up));
    // Told one after another: those that are told later still count as they were.
    for (const { record } of changed)
      left.set(record.backend, (left.get(record.backend) ?? 0) + (record.up ? -1 : 1));
    const at = new Date();
    for (const { record, cause } of changed) {
      const { backend, server, addr, up } = record;
      const now = (left.get(backend) ?? 0) + (up ? 1 : -1);
      left.set(backend, now);
      this.#reporter.emit({
        type: "server",
        backend,
        server,
        addr,
        state: up ? "up" : "down",
        cause,
        left: now,
        at,
      });
    }
  }

  #record(name: string): ServerRecord {
    if (this.#closed) throw new ConveyError("CLOSED", "this balancer was closed");
    const record = this.#records.get(name);
    if (record !== undefined) return record;
    throw new ConveyError("NOT_FOUND", `no server is named "${name}"; servers are named backend/server`);
  }

  #push(record: ServerRecord): void {
    this.#dataplane.setServers([toUpdate(record)]);
  }

  #tellDrain(record: ServerRecord, state: DrainEvent["state"], connections: number | undefined): void {
    const { backend, server } = record;
    this.#reporter.emit({ type: "drain", backend, server, state, ...counted(connections), at: new Date() });
  }
}

const counted = (connections: number | undefined): { connections?: number } =>
  connections === undefined ? {} : { connections };
