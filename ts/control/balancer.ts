/**
 * A balancer as programs see it: started from a configuration, changed while it runs, closed. What serves is
 * in `service.ts`. Invariants: the data plane never serves a configuration that was not judged; a failed
 * change leaves everything as it was; after `close()` nothing of it is left.
 */
import { checkConfig } from "../config/check.ts";
import { loadConfigFile } from "../config/load.ts";
import type { Config, ConfigInput } from "../config/schema.ts";
import { adminSettings } from "../http/access.ts";
import { adminSource } from "../http/source.ts";
import type { MetricsFormat } from "../metrics/family.ts";
import { Metrics } from "../metrics/metrics.ts";
import { ConveyError, type DataplaneModule, loadDataplane } from "../native/index.ts";
import { Configuration } from "./configuration.ts";
import { until, untilQuiet } from "./ending.ts";
import { type BalancerEvent, EventHub } from "./events.ts";
import type { Explanation, HelloQuestion } from "./explain.ts";
import { type FlowFilter, type FlowPage, type FlowPageOptions, Flows } from "./flows.ts";
import { invalidConfig } from "./invalid-config.ts";
import type { LiveDecision, LiveOptions } from "./live.ts";
import { LiveFeed } from "./live-feed.ts";
import { hold, release } from "./living.ts";
import { SILENT } from "./logger.ts";
import { NamedServers } from "./named-servers.ts";
import type { Names } from "./names.ts";
import { narrateWarnings, Reporter } from "./narrate.ts";
import type {
  BalancerOptions,
  ChangeResult,
  ConfigFileSource,
  DrainOptions,
  DrainResult,
  ListenAddress,
  NewServer,
  NewServers,
  ReloadResult,
  RemoveResult,
} from "./options.ts";
import { loadPlanned, makePlan, type Plan, type PlanSource } from "./plan.ts";
import type { Readiness } from "./readiness.ts";
import { Reloader } from "./reload.ts";
import { RuntimeServers } from "./runtime-servers.ts";
import { ServerHandle } from "./server-handle.ts";
import { noServer } from "./servers.ts";
import { Service } from "./service.ts";
import { buildStats, type Stats } from "./stats.ts";
import { Turns } from "./turns.ts";
import { ConfigWatcher } from "./watch.ts";

/**
 * Made by `createBalancer()`. Where the type of the configuration tells its names, calls take only those; servers that
 * are added at run time are no part of it: a `const any: Balancer = lb` takes every name.
 */
export class Balancer<N extends Names = Names> implements AsyncDisposable {
  readonly #source: ConfigFileSource | undefined;
  readonly #events = new EventHub();
  readonly #reporter: Reporter;
  readonly #turns = new Turns();
  readonly #configuration: Configuration;
  readonly #runtime: RuntimeServers;
  readonly #reloader: Reloader;
  readonly #service: Service;
  readonly #flows: Flows;
  readonly #metrics: Metrics;
  readonly #live: LiveFeed;
  #watcher: ConfigWatcher | undefined;
  #keepAlive: NodeJS.Timeout | undefined;
  #closing: Promise<void> | undefined;
  #readdressing = false;
  #tellClosed: () => void = () => undefined;
  readonly #closed = new Promise<void>((resolve) => {
    this.#tellClosed = resolve;
  });
  #acceptUntil = Number.POSITIVE_INFINITY;
  #closeDeadline = Number.POSITIVE_INFINITY;

  private constructor(
    config: Config,
    source: ConfigFileSource | undefined,
    start: DataplaneModule["start"],
    names: NamedServers,
    { logger = SILENT, keepAlive = false }: BalancerOptions,
  ) {
    this.#source = source;
    this.#reporter = new Reporter(this.#events, logger);
    const turns = this.#turns;
    this.#configuration = new Configuration(
      config,
      (next, earlier) => this.#service.apply(next, () => this.#assertOpen(), earlier),
      () => this.#service.servers.records,
    );
    this.#runtime = new RuntimeServers(this.#configuration, turns, (changes) => {
      const config_version = this.#service.version;
      this.#reporter.emit({ type: "servers", changes, config_version, at: new Date() });
    });
    this.#reloader = new Reloader(
      this.#configuration,
      turns,
      source !== undefined,
      ({ file_differs: _, ...status }, changes, warnings) => {
        const config_version = this.#service.version;
        this.#reporter.emit({ type: "reload", ...status, changes, config_version });
        this.#reporter.write(narrateWarnings(warnings));
      },
    );
    this.#live = new LiveFeed({
      read: () => this.#sample(),
      events: () => this.events(),
    });
    const admin = adminSource(this, {
      file: source?.configFile,
      live: this.#live,
      readiness: () => this.#readiness(),
    });
    this.#metrics = new Metrics({
      stats: () => this.stats(),
      readiness: () => this.#readiness(),
      config: () => this.config,
    });
    this.#events.listen((event) => this.#metrics.note(event));
    this.#service = new Service(config, {
      start,
      reporter: this.#reporter,
      admin,
      keepAlive,
      names,
      onChecked: (key, result) => this.#metrics.checked(key, result),
    });
    this.#flows = new Flows(this.#service.dataplane, () => this.#assertOpen());
  }

  /** Starts a balancer; when it rejects, nothing is left running. */
  static async start(
    source: ConfigInput | ConfigFileSource,
    options: BalancerOptions = {},
  ): Promise<Balancer> {
    const { signal } = options;
    signal?.throwIfAborted();
    const balancer = await Balancer.#start(source, options);
    if (signal === undefined) return balancer;
    const abort = () => void balancer.close().catch(() => undefined);
    if (signal.aborted) {
      await balancer.close();
      throw signal.reason;
    }
    signal.addEventListener("abort", abort, { once: true });
    void balancer.closed.then(() => signal.removeEventListener("abort", abort));
    return balancer;
  }

  static async #start(source: ConfigInput | ConfigFileSource, options: BalancerOptions): Promise<Balancer> {
    const fromFile = isFileSource(source) ? source : undefined;
    const loaded = fromFile
      ? (fromFile.loaded ?? (await loadConfigFile(fromFile.configFile, fromFile.overrides)))
      : { ...checkConfig(source), source: { hash: "", regular: false } };
    if (!loaded.ok) throw invalidConfig(loaded.problems);
    const { config } = loaded;
    const settings = config.stats && (await adminSettings(config.stats, process.env));
    const { start, dropPrivileges } = await loadDataplane();
    const balancer = await Balancer.#make(config, fromFile, start, options);
    const reporter = balancer.#reporter;
    hold(balancer);
    try {
      reporter.write(narrateWarnings(loaded.warnings));
      await balancer.#service.open(settings);
      if (fromFile !== undefined && options.watch !== false && loaded.source.regular) {
        await balancer.#watch(fromFile.configFile, loaded.source.hash);
      }
      if (options.adminSocket === true) await balancer.#service.openSocket(fromFile?.configFile);
      if (options.dropPrivileges === true && config.mode !== "proxy") {
        const { kept } = dropPrivileges(config.mode, config.engine);
        reporter.info({ capabilities: kept }, `capabilities kept: ${kept.join(", ") || "none"}`);
      }
    } catch (error) {
      await balancer.close();
      throw error;
    }
    if (options.keepAlive === true) balancer.#keepAlive = setInterval(() => undefined, 2 ** 30);
    balancer.#service.startChecks();
    balancer.#live.start();
    return balancer;
  }

  /** With the first answers on the names of its servers, or without those that did not come in time. */
  static async #make(
    config: Config,
    source: ConfigFileSource | undefined,
    start: DataplaneModule["start"],
    options: BalancerOptions,
  ): Promise<Balancer> {
    let balancer: Balancer | undefined;
    const names = new NamedServers(() => {
      if (balancer !== undefined) balancer.#readdress();
    });
    try {
      await names.prepare(config);
      balancer = new Balancer(config, source, start, names, options);
      return balancer;
    } catch (error) {
      names.close();
      throw error;
    }
  }

  /** The configuration in service, with every default applied. */
  get config(): Config {
    return this.#service.config;
  }

  /** Where the HTTP server listens, with the port the kernel chose; undefined when there is none. */
  get statsAddress(): ListenAddress | undefined {
    return this.#service.adminAddress;
  }

  /**
   * Where a frontend listens, with the port the kernel chose for port 0; of several addresses the first one that its
   * configuration names.
   *
   * @throws ConveyError `NOT_FOUND`.
   */
  address(frontend: N["frontend"]): ListenAddress {
    return this.addresses(frontend)[0];
  }

  /**
   * Every address where a frontend listens, in the order of its configuration, each port of a range by itself.
   *
   * @throws ConveyError `NOT_FOUND`.
   */
  addresses(frontend: N["frontend"]): [ListenAddress, ...ListenAddress[]] {
    const [first, ...more] = this.#service.addresses(frontend);
    if (first !== undefined) return [first, ...more];
    throw new ConveyError("NOT_FOUND", `no frontend named "${frontend}" is listening`);
  }

  /**
   * One server, by `backend/server`, for as long as something has that name; calls ask for it anew each time.
   *
   * @throws ConveyError `NOT_FOUND`.
   */
  server(name: N["server"]): ServerHandle {
    if (!this.#service.hasServer(name)) throw noServer(name);
    return new ServerHandle(this, name);
  }

  /** Everything `/stats` tells, read now. Works after `close()` too. */
  stats(): Stats {
    const { native, context } = this.#sample();
    return buildStats(native, context);
  }

  /** What `/metrics` answers, in the text format of Prometheus or as OpenMetrics. Works after `close()` too. */
  async metrics(format: MetricsFormat = "text"): Promise<string> {
    return await this.#metrics.read(format);
  }

  /**
   * What would become of the next packet from `source` to `destination` ("ip:port"), by the code that forwards
   * and, in the packet modes, by the flow table of the worker that has the flow. Changes nothing. Questions are
   * answered one after another. `hello` tells what the connection's ClientHello says, for a frontend with routes in
   * `sni` or `alpn`.
   *
   * @throws ConveyError `CONFIG_INVALID` for an argument, or a `hello` where the frontend does not look at it, `CLOSED`, `INTERNAL` when no answer comes or too many
   * questions wait.
   */
  async explain(
    protocol: string,
    source: string,
    destination: string,
    hello: HelloQuestion = {},
  ): Promise<Explanation> {
    return await this.#service.explain([protocol, source, destination], hello, () => this.#assertOpen());
  }

  /**
   * The live flows that `filter` takes, in proxy mode the open connections, page by page: call again with the page's
   * `cursor` until it is `null`. No packet waits for it, whatever the size of the table.
   *
   * @throws ConveyError `CONFIG_INVALID` for an argument, `CLOSED`, `INTERNAL` when too many questions wait.
   */
  async flows(filter: FlowFilter = {}, page: FlowPageOptions = {}): Promise<FlowPage> {
    return await this.#flows.list(filter, page);
  }

  /**
   * Ends the flows that `filter` takes: their entries and NAT ports are free. One flow is named by `protocol`, `client`
   * ("ip:port") and `vip` ("ip:port"); for more set `all`. Once they have ended, calling it again kills none. Proxy mode
   * resets both ends; passthrough leaves it to the next packet, whose TCP sender is answered with a reset; in DSR the
   * client's next packet begins the flow anew, as a rule at the same server.
   *
   * @throws ConveyError as `flows()` does.
   */
  async killFlows(filter: FlowFilter): Promise<{ killed: number }> {
    return await this.#flows.kill(filter);
  }

  /**
   * Decisions on the packets that `filter` takes, in proxy mode on new connections, as they are made from this call on:
   * for 30 seconds or 1,000 decisions unless `options` say otherwise, or until the reader stops. At most four watch at a
   * time. A flow that the table does not have is in the state `new`; fragments and ICMP are not watched.
   *
   * @throws ConveyError `CONFIG_INVALID` for an argument, `CLOSED`, `INTERNAL` when four watch already.
   */
  explainLive(
    filter: FlowFilter = {},
    options: LiveOptions = {},
  ): AsyncIterableIterator<LiveDecision, undefined> {
    return this.#flows.live(filter, options);
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
   * With `confirmMs` (1 to 86,400,000) it is a trial: unless `confirmReload()` is called within so many milliseconds,
   * the configuration in service before is put in service again. It resolves when the new one is in service, with
   * `confirm_by`. Reloads and updates in between belong to the trial: it is the last confirmed configuration that comes
   * back, and a reload with `confirmMs` sets the time anew. Servers changed at run time meanwhile stay so. The file
   * stays as it is, `last_reload.file_differs` in the stats says so, and it is read again when it changes or a reload is
   * asked for. `close()` ends the trial without going back; the next start takes the file as it is.
   *
   * @throws ConveyError as `update()` does; `NOT_FOUND` when the configuration came from no file.
   */
  async reload({ confirmMs }: { confirmMs?: number } = {}): Promise<ReloadResult> {
    this.#assertOpen();
    const source = this.#source;
    if (source === undefined) throw new ConveyError("NOT_FOUND", "the configuration came from no file");
    const read = () => loadConfigFile(source.configFile, source.overrides);
    const done = await this.#reloader.fromFile(read, confirmMs);
    const early = done.result === "unchanged" && confirmMs !== undefined && done.confirm_by === undefined;
    if (!early || this.#watcher === undefined || !this.config.reload.watch) return done;
    const message = `${done.message}: this file is watched and read as soon as it changes; set reload.watch = false before`;
    return { ...done, message };
  }

  /**
   * What was reloaded with `confirmMs` stays in service.
   *
   * @throws ConveyError `NOT_FOUND` when nothing waits for it, `CLOSED`.
   */
  async confirmReload(): Promise<ReloadResult> {
    this.#assertOpen();
    return this.#reloader.confirm();
  }

  /**
   * What a reload with this configuration would change, judged and compared with what serves now; nothing is changed.
   * Takes a configuration object, `{ configFile }` or the text of one, `{ toml }`. What is wrong with it is in the
   * answer, too.
   *
   * @throws ConveyError `CLOSED`.
   */
  async plan(source: PlanSource): Promise<Plan> {
    this.#assertOpen();
    const loaded = await loadPlanned(source, this.#source?.overrides, this.#source?.configFile);
    this.#assertOpen();
    return await makePlan(loaded, this.#configuration, this.#service, (cursor) =>
      this.#flows.list({}, { cursor, limit: 10_000 }),
    );
  }

  /**
   * Gives `backend/server` no new connections and resolves when its open ones have ended or `deadlineMs`
   * (default: `shutdown.drain_timeout_ms`) has passed. It stays drained until `enable()`, through health
   * changes and through reloads that keep its address. When a reload removes it, its connections are waited
   * for all the same. Begins after a random part of `jitterMs`; `drain` events tell how it goes.
   *
   * @throws ConveyError `NOT_FOUND`, `CONFIG_INVALID`, `CLOSED`.
   */
  async drain(server: N["server"], options: DrainOptions = {}): Promise<DrainResult> {
    const deadlineMs = options.deadlineMs ?? this.config.shutdown.drain_timeout_ms;
    const { state, ...left } = await this.#service.drain(server, deadlineMs, options.jitterMs);
    return { drained: state === "drained", ...left };
  }

  /**
   * Ends the drain of `backend/server`: it takes new connections again while it is up.
   *
   * @throws ConveyError `NOT_FOUND`, `CLOSED`.
   */
  enable(server: N["server"]): void {
    this.#service.enable(server);
  }

  /**
   * Sets the weight of `backend/server`, 0 to 65535, until its configured weight or its address changes;
   * `null` goes back to the configured one.
   *
   * @throws ConveyError `NOT_FOUND`, `CONFIG_INVALID`, `CLOSED`.
   */
  setWeight(server: N["server"], weight: number | null): void {
    this.#service.setWeight(server, weight);
  }

  /**
   * Adds a server to a backend; resolves when it is in service. By the rules of the configuration.
   *
   * Servers changed at run time stay so over reloads and updates: one that was added until it is removed, its backend
   * goes, or the configuration names a server of that name; one that was removed or set to other settings until the
   * configuration's own entry for it changes. The file is never written, and the next start knows nothing of them.
   *
   * @throws ConveyError and changes nothing: `NOT_FOUND` for the backend, `CONFIG_INVALID` (also where a server of that
   * name is there), `CLOSED`.
   */
  async addServer(backend: N["backend"], server: NewServer): Promise<ChangeResult> {
    this.#assertOpen();
    return await this.#runtime.add(backend, server);
  }

  /**
   * Removes `backend/server`; for how long, see `addServer()`. With `deadlineMs` it is drained first, and stays when it
   * is enabled meanwhile. Its open connections go on, as with a reload that removes it.
   *
   * @throws ConveyError `NOT_FOUND`, `CONFIG_INVALID`, `CLOSED`.
   */
  async removeServer(
    server: N["server"],
    { deadlineMs }: { deadlineMs?: number } = {},
  ): Promise<RemoveResult> {
    this.#assertOpen();
    const origin = this.#service.originOf(server);
    if (origin !== server) {
      const instead = `remove ${origin}, or drain the address`;
      throw new ConveyError(
        "CONFIG_INVALID",
        `${server} is an address of ${origin}, which DNS tells; ${instead}`,
      );
    }
    // Neither has a slash in its name.
    const [backend = "", name = ""] = split(server);
    if (deadlineMs === undefined) return await this.#runtime.remove(backend, name);
    const { state, ...left } = await this.#service.drain(server, deadlineMs);
    const drain: DrainResult = { drained: state === "drained", ...left };
    this.#assertOpen();
    const still = (message: string) => ({
      result: "unchanged" as const,
      message,
      changes: [],
      warnings: [],
      drain,
    });
    if (state === "cancelled") return still(`the drain was called off; ${server} stays`);
    try {
      return { ...(await this.#runtime.remove(backend, name)), drain };
    } catch (error) {
      // A reload or somebody else was faster.
      if (!(error instanceof ConveyError) || error.code !== "NOT_FOUND") throw error;
      return still(`${server} is gone already`);
    }
  }

  /**
   * Makes `servers` the servers of a backend, as discovered elsewhere: what is missing is removed, what is new added, what
   * differs set, and the rest untouched; resolves when that is in service. For how long, see `addServer()`: a server
   * that the configuration names later is added all the same.
   *
   * @throws ConveyError and changes nothing: `NOT_FOUND`, `CONFIG_INVALID`, `CLOSED`.
   */
  async setServers(backend: N["backend"], servers: NewServers): Promise<ChangeResult> {
    this.#assertOpen();
    return await this.#runtime.set(backend, servers);
  }

  /** Events from this call on, for as many readers as call it; ends with `close()`. */
  events(): AsyncIterableIterator<BalancerEvent, undefined> {
    return this.#events.subscribe();
  }

  /**
   * Says that it is not ready for `delayMs` (default 0), then takes no new connections, waits up to `drainMs` (default
   * 0) for the open ones, cuts the rest and frees everything. Called again it can only shorten both. With `shutdown.keep_forwarding` the kernel goes on instead,
   * where it can, and nothing is waited for or cut.
   */
  close({ drainMs = 0, delayMs = 0 }: { drainMs?: number; delayMs?: number } = {}): Promise<void> {
    const now = performance.now();
    this.#acceptUntil = Math.min(this.#acceptUntil, now + delayMs);
    this.#closeDeadline = Math.min(this.#closeDeadline, now + delayMs + drainMs);
    this.#closing ??= this.#shutDown();
    return this.#closing;
  }

  /** Resolves when the balancer has closed, for whatever reason; never rejects. */
  get closed(): Promise<void> {
    return this.#closed;
  }

  /**
   * Opens `log.connections_file` anew by its name, after it was moved away; false where there is none.
   *
   * @throws ConveyError `CLOSED`, `CONFIG_INVALID`: it cannot be opened; the one that was open goes on.
   */
  reopenLog(): boolean {
    this.#assertOpen();
    return this.#service.dataplane.reopenLog();
  }

  /** Whether the kernel goes on forwarding after `close()`. @internal */
  get keepsForwarding(): boolean {
    return this.#service.keepsForwarding;
  }

  /** Ends the data plane at once, while the process exits: nothing else can be waited for then. @internal */
  abandon(): void {
    this.#service.abandon();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** DNS has said something new. However often that is before its turn comes, it is heard once. */
  #readdress(): void {
    if (this.#readdressing || this.#closing !== undefined) return;
    this.#readdressing = true;
    const turn = this.#turns.take(async () => {
      this.#readdressing = false;
      await this.#service.readdress(() => this.#assertOpen());
    });
    turn.catch((error: unknown) => {
      if (this.#closing !== undefined) return;
      const why = error instanceof Error ? error.message : String(error);
      this.#reporter.engine("warning", `addresses that DNS has now cannot be put in service: ${why}`);
    });
  }

  #sample(): ReturnType<Service["sample"]> {
    const { overlay } = this.#configuration;
    return this.#service.sample(
      this.#closing !== undefined,
      this.#reloader.last,
      (key) => overlay.get(key)?.now !== undefined,
    );
  }

  async #watch(file: string, hash: string): Promise<void> {
    this.#watcher = await ConfigWatcher.start(file, hash, async (change) => {
      if (!this.config.reload.watch) {
        this.#reporter.info(
          { file },
          "the configuration file has changed; reload.watch is false: it is not read",
        );
        return true;
      }
      if (change === "missing") {
        this.#reloader.reject("file", `${file} is gone; the last configuration serves on`);
        return false;
      }
      // How it ended is an event, a log line and in /stats.
      const [{ status }] = await Promise.allSettled([this.reload()]);
      return status === "fulfilled";
    });
  }

  async #shutDown(): Promise<void> {
    const { dataplane, servers } = this.#service;
    try {
      if (this.#service.keepsForwarding) servers.finishSlowStarts();
      servers.close();
      this.#reloader.close();
      if (this.#service.keepsForwarding) {
        await this.#watcher?.close();
        return;
      }
      await until(() => this.#acceptUntil);
      this.#service.stopAccepting();
      await this.#watcher?.close();
      let settled = false;
      // Those who were connected when it stopped are counted by then. Where nobody counts, some may be open.
      void dataplane.settle().finally(() => {
        settled = true;
      });
      await untilQuiet(
        () => Math.max(settled ? 0 : 1, dataplane.openConnections() ?? 1),
        this.#turns.idle(),
        () => this.#closeDeadline,
      );
    } finally {
      this.#live.close();
      await this.#service.close(() => this.#events.close());
      clearInterval(this.#keepAlive);
      release(this);
      this.#tellClosed();
    }
  }

  #readiness(): Readiness {
    return this.#service.readiness(this.#closing !== undefined);
  }

  #assertOpen(): void {
    if (this.#closing !== undefined) throw new ConveyError("CLOSED", "this balancer was closed");
  }
}

const isFileSource = (source: ConfigInput | ConfigFileSource): source is ConfigFileSource =>
  typeof source === "object" && source !== null && "configFile" in source;

const split = (server: string): string[] => {
  const slash = server.indexOf("/");
  return slash < 0 ? [server] : [server.slice(0, slash), server.slice(slash + 1)];
};
