/**
 * What serves one configuration after another: data plane, servers, health checks and HTTP server, and the
 * order in which a new configuration reaches them. When it cannot be put in service, nothing has changed.
 */
import { isDeepStrictEqual } from "node:util";
import { isWildcard, parseSocketAddress, type SocketAddress } from "../config/address.ts";
import { findGroup } from "../config/group.ts";
import { backendsOf } from "../config/hello-routes.ts";
import { listenAddresses } from "../config/listen.ts";
import { lower } from "../config/lower.ts";
import type { Problem } from "../config/problem.ts";
import type { Config } from "../config/schema.ts";
import { type AdminSettings, adminSettings } from "../http/access.ts";
import { AdminSlot, type FrontendListener, undo } from "../http/slot.ts";
import { AdminSocket } from "../http/socket.ts";
import type { AdminSource } from "../http/source.ts";
import {
  ConveyError,
  type Dataplane,
  type DataplaneModule,
  type NativeEvent,
  type NativeStats,
} from "../native/index.ts";
import { CounterReader } from "./counter-reader.ts";
import { diffConfig } from "./diff.ts";
import type { Expansion } from "./dns/expand.ts";
import {
  assertLooksAtHello,
  type Explanation,
  type HelloQuestion,
  nativeHello,
  parseFlow,
  parseHello,
  toExplanation,
  withDown,
} from "./explain.ts";
import { type HealthListener, HealthMonitor, type LastCheck } from "./health/monitor.ts";
import { checkText } from "./health/outcome.ts";
import { serverProbe } from "./health/vip-check.ts";
import { configuredListeners, refuseOwnAddress } from "./listeners.ts";
import { type NamedServers, servesTheSame } from "./named-servers.ts";
import { narratePacketPath, type Reporter } from "./narrate.ts";
import type { ListenAddress } from "./options.ts";
import { type Readiness, readiness } from "./readiness.ts";
import type { Applied, ReloadStatus } from "./reload.ts";
import { needsRestart, otherMode } from "./restart.ts";
import { type DrainEnd, drainEndOf, ServerTable } from "./servers.ts";
import { firstRecords } from "./slow-start.ts";
import { checkTargets, copyRecords, isUp, type ServerRecords, toStates } from "./states.ts";
import { buildStats, type Stats, type StatsContext } from "./stats.ts";
import { Turns } from "./turns.ts";

/** Questions about packets under way and waiting; each may hold a thread of Node's pool for two seconds. */
const MAX_QUESTIONS = 16;

/** A configuration without names, and its servers. */
export type Served = { config: Config; records: ServerRecords };

/** See the module's head. */
export class Service {
  readonly dataplane: Dataplane;
  readonly servers: ServerTable;
  readonly #counters: CounterReader;
  readonly #reporter: Reporter;
  readonly #health: HealthMonitor;
  readonly #adminSource: AdminSource;
  readonly #admin: AdminSlot;
  #socket: AdminSocket | undefined;
  readonly #questions = new Turns(MAX_QUESTIONS);
  readonly #startedAt = performance.now();
  /** Asked for once after each change: programs ask frontend by frontend. */
  #addresses: ReadonlyMap<string, readonly SocketAddress[]> | undefined;
  readonly #started: Config;
  readonly #names: NamedServers;
  /** As it was given, with names. */
  #config: Config;
  /** What stands for it. */
  #serving: Expansion;
  #version = 1;
  /** When the latest configuration was put in service, or could not be. */
  #applied: Promise<unknown> = Promise.resolve();

  /** Starts the data plane; `open()` is to follow. Throws ConveyError and leaves nothing running. */
  constructor(
    config: Config,
    parts: {
      start: DataplaneModule["start"];
      reporter: Reporter;
      admin: AdminSource;
      onChecked: NonNullable<HealthListener["onChecked"]>;
      keepAlive: boolean;
      /** That has prepared `config`. */
      names: NamedServers;
    },
  ) {
    this.#started = config;
    this.#config = config;
    this.#names = parts.names;
    this.#serving = this.#names.expand(config);
    this.#reporter = parts.reporter;
    this.#adminSource = parts.admin;
    this.#admin = new AdminSlot(parts.admin);
    const served = this.#serving.config;
    const records = firstRecords(served);
    this.dataplane = parts.start(lower(served, toStates(records)), (event) => this.#onNativeEvent(event));
    this.#counters = new CounterReader(this.dataplane);
    this.servers = new ServerTable(
      records,
      this.dataplane,
      parts.reporter,
      (backend) => this.#config.backends[backend],
    );
    this.#health = new HealthMonitor(
      {
        onTransition: (key, up, cause) => {
          this.servers.transition(key, up, cause);
          if (!up) this.#names.suspect(key);
        },
        onChecked: parts.onChecked,
        onSuspended: (cause, key) =>
          parts.reporter.engine(
            "health-check-suspended",
            `health checks cannot be made, that of ${key} first: ${cause}`,
          ),
      },
      {
        keepAlive: parts.keepAlive,
        probe: serverProbe(
          (probe, done) => this.dataplane.probe(probe, done),
          (message) => parts.reporter.engine("warning", message),
          (address) => this.dataplane.sourceSocket(address),
        ),
      },
    );
    this.#tellNames();
    const { packet } = config.mode === "proxy" ? {} : this.#counters.read();
    if (packet) parts.reporter.write(narratePacketPath(packet));
    if (config.shutdown.keep_forwarding && !this.dataplane.outlivesProcess()) {
      const engine = packet ? `engine ${packet.engine} as it is set up here` : "proxy mode";
      parts.reporter.engine(
        "warning",
        `shutdown.keep_forwarding has no effect: ${engine} ends with the process`,
      );
    }
  }

  /** Whether forwarding is to go on when this ends: then nobody is refused and nothing is waited for. */
  get keepsForwarding(): boolean {
    return this.#config.shutdown.keep_forwarding && this.dataplane.outlivesProcess();
  }

  /** The configuration in service. */
  get config(): Config {
    return this.#config;
  }

  /** Counts configurations put in service, from 1. */
  get version(): number {
    return this.#version;
  }

  get adminAddress(): ListenAddress | undefined {
    return this.#admin.address;
  }

  /** Opens the HTTP server. */
  async open(settings: AdminSettings | undefined): Promise<void> {
    const move = await this.#admin.move(settings, { before: [], after: this.#listeners() });
    move.commit();
  }

  /** Opens the Unix socket by which commands find the balancer of `configFile`; without one they ask by TCP. */
  async openSocket(configFile: string | undefined): Promise<void> {
    if (configFile === undefined) return;
    const group = this.#config.stats?.socket_group;
    const found = group === undefined ? undefined : await findGroup(group);
    const gid = found?.ok === true ? found.gid : undefined;
    const opened = await AdminSocket.open(configFile, this.#adminSource, { gid });
    this.#socket = opened.socket;
    const commands = "`convey healthcheck` and other commands";
    if (opened.socket === undefined) {
      const message = `no socket for ${commands}: ${opened.why}`;
      this.#reporter.write([{ level: "warn", fields: {}, message }]);
    } else if (opened.passedOver !== "" && process.env.CONVEY_STATE_DIR) {
      // Whoever names a folder looks for it there.
      const message = `the socket for ${commands} is ${opened.socket.path}, not in CONVEY_STATE_DIR: ${opened.passedOver}`;
      this.#reporter.write([{ level: "warn", fields: {}, message }]);
    }
  }

  /** Checks the servers of the configuration in service from now on. */
  startChecks(): void {
    const { config, named, origins } = this.#serving;
    this.#health.setTargets(checkTargets(config, (key) => named.get(origins.get(key) ?? "")?.addr));
  }

  /** Where a frontend listens, in the order of its configuration; none when it does not. */
  addresses(frontend: string): ListenAddress[] {
    const found = this.#listening().get(frontend) ?? [];
    return found.map(({ host, port }) => ({ host, port }));
  }

  /** Takes no new connections from now on. */
  stopAccepting(): void {
    this.#addresses = undefined;
    this.#counters.unsettle();
    this.dataplane.stopAccepting();
  }

  /** What statistics are made of, read now; `isRuntime` tells of a server whether it was added or set at run time. */
  sample(
    draining: boolean,
    lastReload: ReloadStatus | undefined,
    isRuntime: (key: string) => boolean,
  ): { native: NativeStats; context: StatsContext } {
    const { mode, frontends } = this.#config;
    const context: StatsContext = {
      mode,
      startedAt: this.#startedAt,
      configVersion: this.#version,
      draining,
      records: this.servers.records,
      routes: new Map(Object.entries(frontends).map(([name, f]) => [name, backendsOf(f)])),
      lastCheck: (key) => this.#health.lastCheck(key) ?? this.#names.check(key),
      lastReload,
      isRuntime: (key) => isRuntime(this.#names.origin(key)),
    };
    return { native: this.#names.complete(this.#counters.read()), context };
  }

  readiness(draining: boolean): Readiness {
    return readiness(this.#config, this.servers.records, draining);
  }

  /** See `Balancer.explain()`; `assertOpen` throws once nobody can answer. */
  async explain(
    question: [string, string, string],
    { sni, alpn }: HelloQuestion,
    assertOpen: () => void,
  ): Promise<Explanation> {
    const flow = parseFlow(...question);
    if (!flow.ok) throw new ConveyError("CONFIG_INVALID", flow.message);
    const hello = parseHello(sni, alpn);
    if (!hello.ok) throw new ConveyError("CONFIG_INVALID", hello.message);
    assertOpen();
    const { protocol, source, destination } = flow.value;
    const native = await this.#questions.take(() => {
      assertOpen();
      return this.dataplane.explain(protocol, source, destination, nativeHello(hello.value));
    });
    assertOpen();
    if (native === null) throw new ConveyError("INTERNAL", "the worker that has the flow did not answer");
    assertLooksAtHello(hello.value, native, this.#config);
    const explanation = toExplanation({ ...flow.value, ...hello.value }, native);
    const routed = native.steps.find((step) => step.kind === "hello_route");
    const backend =
      explanation.server?.backend ??
      routed?.backend ??
      this.#config.frontends[explanation.frontend ?? ""]?.backend;
    const down = [...this.servers.records.values()].filter(
      (record) => record.backend === backend && !isUp(record),
    );
    const without = this.#names.without().filter(({ named }) => named.backend === backend);
    return withDown(explanation, [
      ...down.map(({ key, server, addr, ejection }) => ({
        backend: backend ?? "",
        name: server,
        addr,
        cause: ejection
          ? `ejected until ${ejection.until.toISOString()}, ${ejection.cause}`
          : downFor(this.#health.lastCheck(key)),
      })),
      ...without.map(({ named: { server, addr }, check }) => ({
        backend: backend ?? "",
        name: server,
        addr,
        cause: check.cause,
      })),
    ]);
  }

  /** Connections of everything, counted now. */
  counted(): Pick<Stats, "frontends" | "backends"> {
    const { native, context } = this.sample(false, undefined, () => false);
    return buildStats(native, context);
  }

  /** What is in service now. */
  served(): Served {
    return { config: this.#serving.config, records: this.servers.records };
  }

  /** What would be in service under `next`, by the addresses that are known of its names. */
  servedUnder(next: Config): Served {
    const { config } = this.#names.expand(next);
    return { config, records: this.servers.under(config) };
  }

  /** The servers in service that a server of the configuration stands for: itself, unless it is a name. */
  servedAs(key: string): string[] {
    return this.#names.addressesOf(key) ?? [key];
  }

  /** The server of the configuration that a server in service belongs to. */
  originOf(key: string): string {
    return this.#names.origin(key);
  }

  /** Whether something has this name, in the configuration or in service. */
  hasServer(key: string): boolean {
    return this.servers.records.has(key) || this.#names.addressesOf(key) !== undefined;
  }

  /** See `Balancer.drain()`: all addresses that a name has now. */
  async drain(key: string, deadlineMs: number, jitterMs?: number): Promise<DrainEnd> {
    const ends = await Promise.all(
      this.#addressed(key).map((each) => this.servers.drain(each, deadlineMs, jitterMs)),
    );
    return drainEndOf(ends);
  }

  /** See `Balancer.enable()`: all addresses that a name has now. */
  enable(key: string): void {
    for (const each of this.#addressed(key)) this.servers.enable(each);
  }

  /** See `Balancer.setWeight()`: of all addresses that a name has now. */
  setWeight(key: string, weight: number | null): void {
    for (const each of this.#addressed(key)) this.servers.setWeight(each, weight);
  }

  #addressed(key: string): string[] {
    const keys = this.servedAs(key);
    if (keys.length === 0) throw new ConveyError("NOT_FOUND", `${key} is a name that has no address now`);
    return keys;
  }

  /**
   * Puts the addresses in service that are known by now of the names of the configuration in service.
   *
   * @throws ConveyError and leaves the addresses of before in service.
   */
  async readdress(assertOpen: () => void): Promise<void> {
    assertOpen();
    const next = this.#names.expand(this.#config);
    if (servesTheSame(next, this.#serving)) {
      this.#serving = next;
      this.#tellNames();
      return;
    }
    const records = copyRecords(this.servers.records);
    const before = this.#serving;
    this.#serve(this.#config, next);
    try {
      await this.dataplane.settle();
    } catch (error) {
      this.#serve(this.#config, before, records);
      throw error;
    }
    this.#tellNames();
  }

  /** Settings of `next` that only the next start would take up. */
  needsRestart(next: Config): Problem[] {
    return needsRestart(this.#started, next);
  }

  /** Whether frontends of `next` may listen on other addresses than before though nothing was changed. */
  mayMove(next: Config): boolean {
    return next.mode !== "proxy" && hasWildcard(next);
  }

  /**
   * Puts `next` in service. `assertOpen` throws when that is no longer wanted. Servers that come back are as in
   * `earlier`.
   *
   * @throws ConveyError and leaves the old configuration in service.
   */
  apply(next: Config, assertOpen: () => void, earlier?: ServerRecords): Promise<Applied> {
    const applied = this.#apply(next, assertOpen, earlier);
    this.#applied = applied.catch(() => undefined);
    return applied;
  }

  async #apply(next: Config, assertOpen: () => void, earlier?: ServerRecords): Promise<Applied> {
    assertOpen();
    const before = this.#config;
    const refused = otherMode(before, next);
    if (refused !== undefined) throw new ConveyError("CONFIG_INVALID", refused, { field: "mode" });
    const settings = next.stats && (await adminSettings(next.stats, process.env));
    // A wildcard may stand for other addresses than before.
    const changes = !isDeepStrictEqual(next, before) || this.mayMove(next);
    const newToken = !this.#admin.serves(settings) && isDeepStrictEqual(next.stats, before.stats);
    if (this.#admin.serves(settings) && !changes) return { result: "unchanged", changes: [], warnings: [] };
    const neighbours = { before: this.#listeners(), after: configuredListeners(next) };
    const move = await this.#admin.move(settings, neighbours);
    let installed = false;
    const records = copyRecords(this.servers.records);
    try {
      await this.#names.prepare(next);
      assertOpen();
      refuseOwnAddress(this.#admin.address, neighbours.after);
      this.#install(next, earlier);
      installed = true;
      await this.dataplane.settle();
      await move.finish(this.#listeners());
    } catch (error) {
      // The data plane first: it may hold the address that the old HTTP server goes back to.
      return await undo(error, async () => {
        if (installed) {
          this.#install(before, records);
          await this.dataplane.settle();
        }
        this.#tellNames();
        await move.rollBack();
      });
    }
    move.commit();
    this.#version += 1;
    this.#tellNames();
    return {
      result: "applied",
      changes: diffConfig(before, next),
      warnings: this.needsRestart(next),
      newToken,
    };
  }

  /** Without a pause: health results and operators may change records in between. */
  #install(next: Config, earlier?: ServerRecords): void {
    this.#serve(next, this.#names.expand(next), earlier);
  }

  #serve(next: Config, serving: Expansion, earlier?: ServerRecords): void {
    const records = this.servers.under(serving.config, earlier);
    this.dataplane.install(lower(serving.config, toStates(records)));
    this.#addresses = undefined;
    this.servers.replace(records);
    this.#config = next;
    this.#serving = serving;
    this.startChecks();
  }

  /** What serves is final: names that it has not are forgotten. */
  #tellNames(): void {
    for (const event of this.#names.serve(this.#config, this.#serving)) this.#reporter.emit(event);
  }

  #listening(): ReadonlyMap<string, readonly SocketAddress[]> {
    this.#addresses ??= addressesOf(this.dataplane);
    return this.#addresses;
  }

  /** Where the frontends listen now; in the packet modes nothing does. */
  #listeners(): FrontendListener[] {
    if (this.#config.mode !== "proxy") return [];
    return [...this.#listening()].flatMap(([name, all]) => all.map((address) => ({ name, ...address })));
  }

  /**
   * Cuts what is open, joins every thread, gives the host back, then calls `stopped` and waits for the answers
   * of the HTTP server that are under way.
   */
  async close(stopped: () => void): Promise<void> {
    const socketClosed = this.#socket?.close();
    this.#names.close();
    this.#health.close();
    for (const line of this.dataplane.close(this.keepsForwarding)) this.#reporter.info({}, `host: ${line}`);
    stopped();
    await Promise.all([socketClosed, this.#admin.close()]);
    // One that is still being applied finds out that it is too late, and may bring a server back.
    void this.#applied.then(() => this.#admin.close());
  }

  /** While the process exits. */
  abandon(): void {
    this.#socket?.abandon();
    this.dataplane.close(this.keepsForwarding);
  }

  #onNativeEvent(event: NativeEvent): void {
    switch (event.kind) {
      case "server-connect-failed":
        this.#health.passiveFailure(`${event.backend}/${event.server}`, `data plane: ${event.message}`);
        this.#names.suspect(`${event.backend}/${event.server}`);
        return;
      case "server-failing":
        this.servers.failing(`${event.backend}/${event.server}`, event.message);
        this.#names.suspect(`${event.backend}/${event.server}`);
        return;
      case "worker-panicked":
        this.#reporter.engine("worker-panicked", event.message, event);
        if (!event.restarted) this.#reporter.fatal(`worker ${event.worker} is gone: ${event.message}`);
        return;
      case "accept-backoff":
      case "warning":
        this.#reporter.engine(event.kind, event.message, event);
        return;
    }
  }
}

const downFor = (check: LastCheck | undefined): string => (check === undefined ? "" : checkText(check));

const hasWildcard = (config: Config): boolean =>
  Object.values(config.frontends).some((frontend) => listenAddresses(frontend).some(isWildcard));

function addressesOf(dataplane: Dataplane): Map<string, SocketAddress[]> {
  const addresses = new Map<string, SocketAddress[]>();
  for (const { frontend, address } of dataplane.addresses()) {
    const parsed = parseSocketAddress(address, { wildcard: true });
    if (!parsed.ok) continue;
    const known = addresses.get(frontend);
    if (known) known.push(parsed.value);
    else addresses.set(frontend, [parsed.value]);
  }
  return addresses;
}
