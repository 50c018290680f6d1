/**
 * A running balancer: configuration, server states, data plane, health checks, file watch and HTTP server,
 * and the order in which they change. Invariants: the data plane never serves a configuration that was not
 * judged; a failed change leaves everything as it was; after `close()` nothing of it is left.
 */
import { isDeepStrictEqual } from "node:util";
import { isWildcard, parseSocketAddress } from "../config/address.ts";
import { checkConfig } from "../config/check.ts";
import { formatProblem } from "../config/diagnostics.ts";
import { loadConfigFile } from "../config/load.ts";
import { lower } from "../config/lower.ts";
import type { Overrides } from "../config/overrides.ts";
import type { Problem } from "../config/problem.ts";
import type { Config, ConfigInput } from "../config/schema.ts";
import { adminSettings } from "../http/access.ts";
import { AdminSlot } from "../http/slot.ts";
import { ConveyError, type Dataplane, loadDataplane, type NativeEvent } from "../native/index.ts";
import { type BalancerEvent, type DrainEvent, EventHub } from "./events.ts";
import { type Explanation, parseFlow, toExplanation } from "./explain.ts";
import { HealthMonitor } from "./health.ts";
import { type Logger, SILENT } from "./logger.ts";
import { invalidConfig, Reloader, type ReloadResult, type ReloadStatus } from "./reload.ts";
import { needsRestart } from "./restart.ts";
import {
  carryOver,
  checkTargets,
  type ServerRecord,
  type ServerRecords,
  toStates,
  toUpdate,
} from "./states.ts";
import { buildStats, type Stats } from "./stats.ts";
import { ConfigWatcher } from "./watch.ts";

/** A file to run from, instead of a configuration object. */
export type ConfigFileSource = {
  /** Path of a TOML file. */
  configFile: string;
  /** Settings that win over the file, at start and at every reload. */
  overrides?: Overrides;
};

/** How a balancer behaves towards the program around it. */
export type BalancerOptions = {
  /** A pino logger, or anything of that shape; silent by default. */
  logger?: Logger;
  /** Keep the process alive until `close()`. Off by default: a program that forgets `close()` still ends. */
  keepAlive?: boolean;
  /** Follow changes of the configuration file. On by default; means nothing without one. */
  watch?: boolean;
  /**
   * In the packet modes: every thread of this process keeps, for good, only the capabilities that a reload and
   * the end need. For programs that are nothing but a balancer; off by default.
   */
  dropPrivileges?: boolean;
};

/** Where something listens. */
export type ListenAddress = { host: string; port: number };

/** How a drain ended. */
export type DrainResult = {
  /** Whether no connection was left. */
  drained: boolean;
  /** Connections still open. */
  connections: number;
};

// The engine of a handle that was garbage-collected would silently stop.
const live = new Set<Balancer>();

// process.exit() and an uncaught error skip close(); the host must be given back all the same.
let leaving = false;
function closeOnExit(): void {
  if (leaving) return;
  leaving = true;
  process.on("exit", () => {
    for (const balancer of live) balancer.abandon();
  });
}

/** Made by `createBalancer()`. */
export class Balancer implements AsyncDisposable {
  readonly #log: Logger;
  readonly #source: ConfigFileSource | undefined;
  readonly #startedAt = performance.now();
  readonly #events = new EventHub();
  readonly #health: HealthMonitor;
  readonly #reloader: Reloader;
  readonly #dataplane: Dataplane;
  #config: Config;
  #configVersion = 1;
  #records: ServerRecords;
  readonly #admin: AdminSlot;
  #watcher: ConfigWatcher | undefined;
  #keepAlive: NodeJS.Timeout | undefined;
  readonly #transitions = new Map<string, string>();
  #closing: Promise<void> | undefined;
  #closeDeadline = Number.POSITIVE_INFINITY;

  private constructor(
    config: Config,
    source: ConfigFileSource | undefined,
    log: Logger,
    keepAlive: boolean,
    start: (records: ServerRecords, onEvent: (event: NativeEvent) => void) => Dataplane,
  ) {
    this.#config = config;
    this.#source = source;
    this.#log = log;
    this.#records = carryOver(config, new Map());
    this.#health = new HealthMonitor(
      {
        onTransition: (key, up, cause) => this.#onTransition(key, up, cause),
        onSuspended: (cause) =>
          this.#onEngine("health-check-suspended", `health checks cannot be made: ${cause}`),
      },
      { keepAlive },
    );
    this.#reloader = new Reloader(
      (next) => this.#apply(next),
      (status, warnings) => this.#onReload(status, warnings),
    );
    this.#admin = new AdminSlot({
      stats: () => this.stats(),
      explain: (protocol, from, to) => this.explain(protocol, from, to),
      ...(source === undefined ? {} : { reload: () => this.reload() }),
    });
    this.#dataplane = start(this.#records, (event) => this.#onNativeEvent(event));
  }

  /** Starts a balancer; when it rejects, nothing is left running. */
  static async start(
    source: ConfigInput | ConfigFileSource,
    options: BalancerOptions = {},
  ): Promise<Balancer> {
    const log = options.logger ?? SILENT;
    const fromFile = isFileSource(source) ? source : undefined;
    const loaded = fromFile
      ? await loadConfigFile(fromFile.configFile, fromFile.overrides)
      : { ...checkConfig(source), source: { hash: "" } };
    if (!loaded.ok) throw invalidConfig(loaded.problems);
    const { config } = loaded;
    logWarnings(log, loaded.warnings);
    const settings = config.stats && (await adminSettings(config.stats, process.env));
    const { start, dropPrivileges } = await loadDataplane();
    const keepAlive = options.keepAlive === true;
    const balancer = new Balancer(config, fromFile, log, keepAlive, (records, onEvent) =>
      start(lower(config, toStates(records)), onEvent),
    );
    live.add(balancer);
    closeOnExit();
    try {
      balancer.#tellPacketPath();
      await balancer.#admin.move(settings);
      if (fromFile !== undefined && options.watch !== false) {
        const { hash } = loaded.source;
        balancer.#watcher = await ConfigWatcher.start(fromFile.configFile, hash, (change) =>
          balancer.#onFile(change),
        );
      }
      if (options.dropPrivileges === true && config.mode !== "proxy") {
        const { kept } = dropPrivileges(config.mode);
        log.info({ capabilities: kept }, `capabilities kept: ${kept.join(", ") || "none"}`);
      }
    } catch (error) {
      await balancer.close();
      throw error;
    }
    if (keepAlive) balancer.#keepAlive = setInterval(() => undefined, 2 ** 30);
    balancer.#health.setTargets(checkTargets(config));
    return balancer;
  }

  /** The configuration in service, with every default applied. */
  get config(): Config {
    return this.#config;
  }

  /** Where the HTTP server listens, with the port the kernel chose; undefined when there is none. */
  get statsAddress(): ListenAddress | undefined {
    return this.#admin.address;
  }

  /**
   * Where a frontend listens, with the port the kernel chose for port 0.
   *
   * @throws ConveyError `NOT_FOUND`.
   */
  address(frontend: string): ListenAddress {
    const found = this.addresses().get(frontend);
    if (found === undefined)
      throw new ConveyError("NOT_FOUND", `no frontend named "${frontend}" is listening`);
    return found;
  }

  /** Where every frontend listens, by name; asks once, where there are thousands. */
  addresses(): Map<string, ListenAddress> {
    const listening = this.#dataplane.stats().frontends.filter(({ address }) => address !== "");
    return new Map(
      listening.map(({ name, address }) => {
        const colon = address.lastIndexOf(":");
        const host = address.slice(0, colon).replace(/^\[|\]$/g, "");
        return [name, { host, port: Number(address.slice(colon + 1)) }];
      }),
    );
  }

  /** Everything `/stats` tells, read now. Works after `close()` too. */
  stats(): Stats {
    return buildStats(this.#dataplane.stats(), {
      mode: this.#config.mode,
      startedAt: this.#startedAt,
      configVersion: this.#configVersion,
      draining: this.#closing !== undefined,
      records: this.#records,
      routes: new Map(Object.entries(this.#config.frontends).map(([name, f]) => [name, f.backend])),
      lastCheck: (key) => this.#health.lastCheck(key),
      lastReload: this.#reloader.last,
    });
  }

  /**
   * What would become of the next packet from `source` to `destination` ("ip:port"), by the code that forwards
   * and, in the packet modes, by the flow table of the worker that has the flow. Changes nothing.
   *
   * @throws ConveyError `CONFIG_INVALID` for an argument, `CLOSED`, `INTERNAL` when no answer comes.
   */
  async explain(protocol: string, source: string, destination: string): Promise<Explanation> {
    const flow = parseFlow(protocol, source, destination);
    if (!flow.ok) throw new ConveyError("CONFIG_INVALID", flow.message);
    this.#assertOpen();
    const { value } = flow;
    const native = await this.#dataplane.explain(value.protocol, value.source, value.destination);
    this.#assertOpen();
    if (native === null) throw new ConveyError("INTERNAL", "the worker that has the flow did not answer");
    return toExplanation(value, native);
  }

  /**
   * Puts another configuration in service; parts that are the same are not touched, open connections and
   * counters of surviving names go on.
   *
   * @throws ConveyError and leaves the old one in service: `CONFIG_INVALID` with `problems`, `BIND_FAILED`,
   * `PERMISSION_DENIED`, `CLOSED`.
   */
  async update(config: ConfigInput): Promise<ReloadResult> {
    this.#assertOpen();
    return await this.#reloader.fromUpdate(checkConfig(config));
  }

  /**
   * Reads the configuration file again. Calls while one is waiting share its outcome.
   *
   * @throws ConveyError as `update()` does; `NOT_FOUND` when the configuration came from no file.
   */
  async reload(): Promise<ReloadResult> {
    this.#assertOpen();
    const source = this.#source;
    if (source === undefined) throw new ConveyError("NOT_FOUND", "the configuration came from no file");
    return await this.#reloader.fromFile(() => loadConfigFile(source.configFile, source.overrides));
  }

  /**
   * Gives `backend/server` no new connections and resolves when its open ones have ended or `deadlineMs`
   * (default: `shutdown.drain_timeout_ms`) has passed. It stays drained until `enable()`, through health
   * changes and through reloads that keep its address.
   *
   * @throws ConveyError `NOT_FOUND`, `CLOSED`.
   */
  async drain(server: string, options: { deadlineMs?: number } = {}): Promise<DrainResult> {
    const record = this.#record(server);
    const deadline = performance.now() + (options.deadlineMs ?? this.#config.shutdown.drain_timeout_ms);
    record.draining = true;
    this.#push(record);
    this.#onDrain(record, "started", this.#connections(record));
    for (;;) {
      const connections = this.#connections(record);
      const now = this.#records.get(record.key);
      if (now === undefined || connections === 0) {
        this.#onDrain(record, "drained", connections);
        return { drained: true, connections };
      }
      if (!now.draining || this.#closed) {
        this.#onDrain(record, "cancelled", connections);
        return { drained: false, connections };
      }
      const left = deadline - performance.now();
      if (left <= 0) {
        this.#onDrain(record, "deadline", connections);
        return { drained: false, connections };
      }
      await sleep(Math.min(POLL_MS, left));
    }
  }

  /**
   * Ends the drain of `backend/server`: it takes new connections again while it is up.
   *
   * @throws ConveyError `NOT_FOUND`, `CLOSED`.
   */
  enable(server: string): void {
    const record = this.#record(server);
    record.draining = false;
    this.#push(record);
    this.#log.info({ backend: record.backend, server: record.server }, "server enabled");
  }

  /**
   * Sets the weight of `backend/server`, 0 to 65535, until its configured weight or its address changes;
   * `null` goes back to the configured one.
   *
   * @throws ConveyError `NOT_FOUND`, `CONFIG_INVALID`, `CLOSED`.
   */
  setWeight(server: string, weight: number | null): void {
    const record = this.#record(server);
    if (weight !== null && !(Number.isInteger(weight) && weight >= 0 && weight <= 65535)) {
      throw new ConveyError("CONFIG_INVALID", `weight of ${server}: ${weight} is no integer from 0 to 65535`);
    }
    record.weightOverride = weight ?? undefined;
    this.#push(record);
    this.#log.info({ backend: record.backend, server: record.server, weight }, "weight set");
  }

  /** Events from this call on, for as many readers as call it; ends with `close()`. */
  events(): AsyncIterableIterator<BalancerEvent, undefined> {
    return this.#events.subscribe();
  }

  /**
   * Takes no new connections, waits up to `drainMs` (default 0) for the open ones, cuts the rest and frees
   * everything. Called again it can only shorten the wait.
   */
  close(options: { drainMs?: number } = {}): Promise<void> {
    this.#closeDeadline = Math.min(this.#closeDeadline, performance.now() + (options.drainMs ?? 0));
    this.#closing ??= this.#shutDown();
    return this.#closing;
  }

  /** Ends the data plane at once, while the process exits: nothing else can be waited for then. @internal */
  abandon(): void {
    this.#dataplane.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #tellPacketPath(): void {
    const { packet } = this.#dataplane.stats();
    if (packet === undefined || packet === null) return;
    const { engine, guard, interfaces, notes } = packet;
    const method = guard === "tcx" ? "a kernel program (tcx)" : guard;
    this.#log.info(
      { engine, guard, interfaces },
      `engine ${engine} forwards on ${interfaces.join(", ")}; ${method} keeps the kernel from answering`,
    );
    for (const note of notes) this.#log.warn({}, note);
  }

  get #closed(): boolean {
    return this.#closing !== undefined;
  }

  async #shutDown(): Promise<void> {
    try {
      await this.#watcher?.close();
      this.#dataplane.stopAccepting();
      await this.#reloader.idle();
      for (;;) {
        const left = this.#closeDeadline - performance.now();
        if (left <= 0 || this.#dataplane.stats().counters.currentConnections === 0) break;
        await sleep(Math.min(POLL_MS, left));
      }
    } finally {
      this.#health.close();
      for (const line of this.#dataplane.close()) this.#log.info({}, `host: ${line}`);
      this.#events.close();
      await this.#admin.close();
      clearInterval(this.#keepAlive);
      live.delete(this);
    }
  }

  #assertOpen(): void {
    if (this.#closed) throw new ConveyError("CLOSED", "this balancer was closed");
  }

  #record(name: string): ServerRecord {
    this.#assertOpen();
    const record = this.#records.get(name);
    if (record !== undefined) return record;
    throw new ConveyError("NOT_FOUND", `no server is named "${name}"; servers are named backend/server`);
  }

  #push(record: ServerRecord): void {
    this.#dataplane.setServers([toUpdate(record)]);
  }

  #connections(record: ServerRecord): number {
    const backend = this.#dataplane.stats().backends.find((b) => b.name === record.backend);
    const server = backend?.servers.find((s) => s.name === record.server);
    return server?.counters.currentConnections ?? 0;
  }

  async #apply(next: Config): Promise<ReloadResult> {
    this.#assertOpen();
    if (next.mode !== this.#config.mode) {
      throw new ConveyError(
        "CONFIG_INVALID",
        `mode: cannot change from ${this.#config.mode} to ${next.mode} while running; restart to change the mode`,
        { field: "mode" },
      );
    }
    const settings = next.stats && (await adminSettings(next.stats, process.env));
    // A wildcard may stand for other addresses than before.
    const changes = !isDeepStrictEqual(next, this.#config) || (next.mode !== "proxy" && hasWildcard(next));
    if (this.#admin.serves(settings) && !changes) {
      return { result: "unchanged", warnings: [] };
    }
    const move = await this.#admin.move(settings);
    try {
      this.#assertOpen();
      // No await from here on: health results and operators may change records in between.
      const records = carryOver(next, this.#records);
      this.#dataplane.install(lower(next, toStates(records)));
      const warnings = needsRestart(this.#config, next);
      this.#records = records;
      this.#config = next;
      this.#configVersion += 1;
      this.#health.setTargets(checkTargets(next));
      move.commit();
      return { result: "applied", warnings };
    } catch (error) {
      await move.rollBack();
      throw error;
    }
  }

  #onFile(change: "changed" | "missing"): void {
    if (change === "missing") {
      const message = `${this.#source?.configFile} is gone; the last configuration serves on`;
      this.#reloader.reject("file", message);
      return;
    }
    // The outcome is an event, a log line and in /stats.
    this.reload().catch(() => undefined);
  }

  #onReload(status: ReloadStatus, warnings: Problem[]): void {
    const { at, result, source, message } = status;
    this.#events.emit({ type: "reload", result, source, message, at });
    if (result === "rejected")
      this.#log.error({ source }, `reload rejected, the old configuration serves on: ${message}`);
    else this.#log.info({ source, config_version: this.#configVersion }, `reload: ${message}`);
    logWarnings(this.#log, warnings);
  }

  #onTransition(key: string, up: boolean, cause: string): void {
    const record = this.#records.get(key);
    if (record === undefined) return;
    record.up = up;
    // All changes of one turn of the loop reach the data plane in one call.
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
      if (!this.#closed) this.#onFatal(`the data plane takes no health changes: ${messageOf(error)}`);
      return;
    }
    const at = new Date();
    for (const { record, cause } of changed) {
      const { backend, server, addr, up } = record;
      const state = up ? "up" : "down";
      this.#events.emit({ type: "server", backend, server, addr, state, cause, at });
      this.#log[up ? "info" : "warn"](
        { backend, server, addr, state },
        `server ${backend}/${server} is ${state}: ${cause}`,
      );
    }
    for (const backend of new Set(
      changed.filter(({ record }) => !record.up).map(({ record }) => record.backend),
    )) {
      const anyUp = [...this.#records.values()].some((r) => r.backend === backend && r.up);
      if (!anyUp) this.#log.error({ backend }, `backend ${backend} has no server left`);
    }
  }

  #onNativeEvent(event: NativeEvent): void {
    switch (event.kind) {
      case "server-connect-failed":
        this.#health.passiveFailure(`${event.backend}/${event.server}`, `data plane: ${event.message}`);
        return;
      case "worker-panicked":
        this.#onEngine("worker-panicked", event.message, event);
        if (!event.restarted) this.#onFatal(`worker ${event.worker} is gone: ${event.message}`);
        return;
      case "accept-backoff":
      case "warning":
        this.#onEngine(event.kind, event.message, event);
        return;
    }
  }

  #onEngine(
    kind: "worker-panicked" | "accept-backoff" | "health-check-suspended" | "warning",
    message: string,
    { frontend, worker }: { frontend: string; worker: string } = { frontend: "", worker: "" },
  ): void {
    this.#events.emit({ type: "engine", kind, frontend, worker, message, at: new Date() });
    this.#log[kind === "worker-panicked" ? "error" : "warn"]({ kind, frontend, worker }, message);
  }

  #onFatal(message: string): void {
    this.#events.emit({ type: "fatal", message, at: new Date() });
    this.#log.error({}, message);
  }

  #onDrain(record: ServerRecord, state: DrainEvent["state"], connections: number): void {
    const { backend, server } = record;
    this.#events.emit({ type: "drain", backend, server, state, connections, at: new Date() });
    this.#log.info({ backend, server, connections }, `drain of ${backend}/${server}: ${state}`);
  }
}

/** How often connections are counted while waiting for them to end. */
const POLL_MS = 50;

const hasWildcard = (config: Config): boolean =>
  Object.values(config.frontends).some(({ listen_addr }) => {
    const address = parseSocketAddress(listen_addr, { wildcard: true });
    return address.ok && isWildcard(address.value);
  });

const isFileSource = (source: ConfigInput | ConfigFileSource): source is ConfigFileSource =>
  typeof source === "object" && source !== null && "configFile" in source;

// Keeps the process alive: someone awaits the outcome.
const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

function logWarnings(log: Logger, warnings: readonly Problem[]): void {
  for (const warning of warnings) log.warn({ path: warning.path }, formatProblem(warning));
}
