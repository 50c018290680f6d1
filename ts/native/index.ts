/**
 * The one door to the addon. It is imported on first use, so that everything that needs no data plane
 * (validation, schema, help) works on a machine without it; what it throws leaves here as `ConveyError`.
 */
import type { Problem } from "../config/problem.ts";
import type {
  ErrorCode,
  NativeAddress,
  NativeClientHello,
  NativeConfig,
  Dataplane as NativeDataplane,
  NativeDropReport,
  NativeDsrServer,
  NativeDsrServerAction,
  NativeDsrServerReport,
  NativeEngine,
  NativeEvent,
  NativeExplanation,
  NativeFlowFilter,
  NativeFlowPage,
  NativeHostReport,
  NativeKernelReport,
  NativeLiveBatch,
  NativeMember,
  NativeMode,
  NativeMovedSlots,
  NativeProbe,
  NativeProbeReport,
  NativeProtocol,
  NativeReading,
  NativeServerUpdate,
  NativeSetting,
  NativeStats,
} from "./addon/index.js";

export type {
  ErrorCode,
  NativeAddress,
  NativeClientHello,
  NativeConfig,
  NativeCounters,
  NativeDropReport,
  NativeDsrServer,
  NativeDsrServerAction,
  NativeDsrServerReport,
  NativeEvent,
  NativeExplanation,
  NativeFlow,
  NativeFlowFilter,
  NativeFlowPage,
  NativeGuardDrops,
  NativeHostProblem,
  NativeHostReport,
  NativeKernelReport,
  NativeLiveBatch,
  NativeLiveDecision,
  NativeMember,
  NativeMovedSlots,
  NativePacketStats,
  NativeProbe,
  NativeProbeReport,
  NativeQueueStats,
  NativeReason,
  NativeRefusedEngine,
  NativeServerStats,
  NativeServerUpdate,
  NativeStats,
  NativeStep,
} from "./addon/index.js";

/**
 * Codes an error may carry: those of the data plane, `ADDON_MISSING` (none for this platform), `NOT_FOUND` (no
 * frontend or server of that name), `UNREACHABLE` (a command found no running balancer). They are stable; messages
 * are not.
 */
export type ConveyErrorCode = ErrorCode | "ADDON_MISSING" | "NOT_FOUND" | "UNREACHABLE";

/** Everything this library throws on purpose. Go by `code`; `message` is for people. */
export class ConveyError extends Error {
  override readonly name = "ConveyError";
  /** Stable code. */
  readonly code: ConveyErrorCode;
  /** Key path in the configuration the error is about. */
  readonly field?: string;
  /** For `CONFIG_INVALID`: everything that is wrong, errors and warnings. */
  readonly problems?: Problem[];

  constructor(
    code: ConveyErrorCode,
    message: string,
    details: { field?: string; problems?: Problem[]; cause?: unknown } = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    if (details.field !== undefined) this.field = details.field;
    if (details.problems !== undefined) this.problems = details.problems;
  }
}

/** Connections of one server. */
export interface ServerGauge {
  open(): number;
}

/** A running data plane; every method throws `ConveyError`. */
export interface Dataplane {
  /** Replaces the configuration and returns the snapshot's version; when it throws, the old one serves on. */
  install(config: NativeConfig): number;
  /** Changes health, drain state and weight of servers; unknown names are passed over. */
  setServers(updates: NativeServerUpdate[]): number;
  /** Opens the file that connections are logged to anew, by its name; false where there is none. */
  reopenLog(): boolean;
  /** Reads every counter; works after `close()` too. */
  stats(): NativeStats;
  /** Reads what may have changed since `stats()` was read at version `known`; works after `close()` too. */
  reread(known: number): NativeReading;
  /** Where each frontend listens or, once accepting has stopped, did; in the packet modes none from then on. */
  addresses(): NativeAddress[];
  /** Connections open now, over all frontends; works after `close()` too. `null` where they are not counted. */
  openConnections(): number | null;
  /** The open connections of a server in service, if they are counted; the gauge outlives the server's leaving. */
  serverGauge(backend: string, server: string): ServerGauge | null;
  /**
   * Asks a server for the addresses of frontends, in dsr mode. `done` is called later, by the probe's timeout at the
   * latest, unless the returned function or `close()` was called before.
   */
  probe(probe: NativeProbe, done: (report: NativeProbeReport) => void): () => void;
  /** A descriptor, the caller's own, of a TCP socket that connects from `address` and gets its port by that. */
  sourceSocket(address: string): number;
  /** Takes no new connections from now on; open ones go on. */
  stopAccepting(): void;
  /** Resolves when what `install()` and `stopAccepting()` took out of service is closed and its clients are counted. */
  settle(): Promise<void>;
  /** What would become of the next packet of a flow; `null` when nobody answers, or after `close()`. */
  explain(
    protocol: NativeProtocol,
    source: string,
    destination: string,
    hello?: NativeClientHello,
  ): Promise<NativeExplanation | null>;
  /** A page of the live flows, proxy mode: of the open connections; `cursor` "" is the beginning. `null` after `close()`. */
  flows(filter: NativeFlowFilter, cursor: string, limit: number): Promise<NativeFlowPage | null>;
  /** Ends flows and tells how many; `null` after `close()`, and when a worker does not answer. */
  killFlows(filter: NativeFlowFilter): Promise<number | null>;
  /**
   * Calls `onBatch` with decisions as they are made, for so many milliseconds or until there were `count`; the last batch
   * has `ended`. The returned function ends it.
   */
  watchExplain(
    filter: NativeFlowFilter,
    durationMs: number,
    count: number,
    onBatch: (batch: NativeLiveBatch) => void,
  ): () => void;
  /** Whether forwarding goes on without the process: when it is killed, and with `close(true)`. */
  outlivesProcess(): boolean;
  /**
   * Cuts what is still open, joins every thread, and returns what was taken back from the host. Idempotent. With
   * `keepForwarding` an engine that outlives the process leaves everything for the next start instead.
   */
  close(keepForwarding: boolean): string[];
}

/** What the addon offers. */
export interface DataplaneModule {
  /** Checks the configuration, binds and starts; when it throws, nothing is left running. */
  start(config: NativeConfig, onEvent: (event: NativeEvent) => void): Dataplane;
  /** What would become of the first packet of a flow if a balancer started now; changes nothing. */
  explainConfig(
    config: NativeConfig,
    protocol: NativeProtocol,
    source: string,
    destination: string,
    hello?: NativeClientHello,
  ): NativeExplanation;
  /** How many slots of a backend's Maglev table would name another address with `after` than with `before`. */
  movedSlots(before: NativeMember[], after: NativeMember[]): Promise<NativeMovedSlots>;
  /** What a start would do to the host, as lines one could type; changes nothing. */
  hostDryRun(config: NativeConfig): string[];
  /** What this host would say to a start: why it would be refused, what stands in the way; changes nothing. */
  hostProblems(config: NativeConfig): string[];
  /** What this host would say to a start, as data; changes nothing. */
  hostReport(config: NativeConfig): NativeHostReport;
  /** What the kernel lets this process do. */
  kernelReport(): NativeKernelReport;
  /** What this host lacks as a server for direct server return, as data. */
  dsrServerReport(server: NativeDsrServer): NativeDsrServerReport;
  /** Sets kernel parameters, all or none, so that `undoSettings()` takes them back; returns what was done, as commands. */
  applySettings(settings: NativeSetting[]): string[];
  /** Takes them back where they still have that value; returns what was done and what was left. */
  undoSettings(): string[];
  /** Takes back what killed processes left; returns what was done. */
  hostCleanup(): string[];
  /** Prepares this host as a server for direct server return, checks it, or undoes it. */
  dsrServer(server: NativeDsrServer, action: NativeDsrServerAction): string[];
  /**
   * Every thread of this process keeps only the capabilities that a balancer of this mode, with the engine asked for,
   * needs, for good.
   */
  dropPrivileges(mode: NativeMode, engine: NativeEngine): NativeDropReport;
  /**
   * Takes the listening sockets that LISTEN_PID and LISTEN_FDS tell of, in their order, for the frontends that listen
   * there: `address` is "ip:port", or "" with a `problem`. To be called once, before a balancer is started.
   */
  takePassedSockets(): { address: string; problem: string }[];
  /** A descriptor, the caller's own, of the socket passed on that listens on exactly `address` ("ip:port"), if any. */
  passedSocket(address: string): number | null;
  /** A connection to an abstract Unix socket, by its name without the zero byte; below zero, the number of an error. */
  connectAbstract(name: string): number;
  /** Sends lines of `NAME=value`, as in sd_notify(3), to a Unix socket: a path, or an abstract name after "@". */
  notifyServiceManager(socket: string, state: string): void;
  /** Ends the process now, though a thread of Node's hangs; what was started must have been closed before. */
  exitNow(code: number): void;
}

/**
 * Loads the addon.
 *
 * @throws ConveyError `ADDON_MISSING` when there is none for this platform or it cannot be loaded.
 */
export async function loadDataplane(): Promise<DataplaneModule> {
  const addon = await import("./addon/index.js").catch((cause: unknown) => {
    throw new ConveyError(
      "ADDON_MISSING",
      `cannot load the data plane for ${process.platform}-${process.arch}: ${reasons(cause)}; ` +
        'in a checkout run "npm run build:native", otherwise reinstall without omitting optional dependencies',
      { cause },
    );
  });
  return {
    start: (config, onEvent) => wrap(unwrap(() => addon.Dataplane.start(config, onEvent))),
    explainConfig: (...question) => unwrap(() => addon.explainConfig(...question)),
    movedSlots: async (...tables) => await unwrap(() => addon.movedMaglevSlots(...tables)),
    hostDryRun: (config) => unwrap(() => addon.hostDryRun(config)),
    hostProblems: (config) => unwrap(() => addon.hostProblems(config)),
    hostReport: (config) => unwrap(() => addon.hostReport(config)),
    kernelReport: () => unwrap(() => addon.kernelReport()),
    dsrServerReport: (server) => unwrap(() => addon.dsrServerReport(server)),
    applySettings: (settings) => unwrap(() => addon.applySettings(settings)),
    undoSettings: () => unwrap(() => addon.undoSettings()),
    hostCleanup: () => unwrap(() => addon.hostCleanup()),
    dsrServer: (server, action) => unwrap(() => addon.dsrServer(server, action)),
    dropPrivileges: (mode, engine) => unwrap(() => addon.dropPrivileges(mode, engine)),
    takePassedSockets: () => unwrap(() => addon.takePassedSockets()),
    passedSocket: (address) => unwrap(() => addon.passedSocket(address)),
    connectAbstract: (name) => unwrap(() => addon.connectAbstract(name)),
    notifyServiceManager: (socket, state) => unwrap(() => addon.notifyServiceManager(socket, state)),
    exitNow: (code) => addon.exitNow(code),
  };
}

function wrap(native: NativeDataplane): Dataplane {
  return {
    install: (config) => unwrap(() => native.install(config)),
    setServers: (updates) => unwrap(() => native.setServers(updates)),
    reopenLog: () => unwrap(() => native.reopenLog()),
    stats: () => unwrap(() => native.stats()),
    reread: (known) => unwrap(() => native.reread(known)),
    addresses: () => unwrap(() => native.addresses()),
    openConnections: () => unwrap(() => native.openConnections()),
    serverGauge: (backend, server) => unwrap(() => native.serverGauge(backend, server)),
    probe: prober(native),
    sourceSocket: (address) => unwrap(() => native.sourceSocket(address)),
    stopAccepting: () => unwrap(() => native.stopAccepting()),
    settle: async () => await unwrap(() => native.settle()),
    explain: async (...question) => await unwrap(() => native.explain(...question)),
    flows: async (...question) => await unwrap(() => native.flows(...question)),
    killFlows: async (filter) => await unwrap(() => native.killFlows(filter)),
    watchExplain: (...question) => {
      const watch = unwrap(() => native.watchExplain(...question));
      return () => unwrap(() => watch.stop());
    },
    outlivesProcess: () => unwrap(() => native.outlivesProcess()),
    close: (keepForwarding) => unwrap(() => native.close(keepForwarding)),
  };
}

/** Ends of probes come by one callback for all, which costs a probe next to nothing. */
function prober(native: NativeDataplane): Dataplane["probe"] {
  const waiting = new Map<number, (report: NativeProbeReport) => void>();
  let last = 0;
  return (probe, done) => {
    if (last === 0) {
      unwrap(() =>
        native.listenForProbes((report) => {
          const tell = waiting.get(report.id);
          waiting.delete(report.id);
          tell?.(report);
        }),
      );
    }
    last = (last % 0xffff_ffff) + 1;
    const id = last;
    waiting.set(id, done);
    unwrap(() => native.probe(id, probe));
    return () => waiting.delete(id);
  };
}

// A record, so that a code added on the Rust side without a line here is a compile error.
const NATIVE_CODES: Record<ErrorCode, true> = {
  CONFIG_INVALID: true,
  BIND_FAILED: true,
  PERMISSION_DENIED: true,
  ENGINE_UNSUPPORTED: true,
  CLOSED: true,
  INTERNAL: true,
};

function unwrap<T>(call: () => T): T {
  try {
    return call();
  } catch (cause) {
    const { code, message } = cause as { code?: unknown; message?: unknown };
    const known = typeof code === "string" && Object.hasOwn(NATIVE_CODES, code);
    throw new ConveyError(known ? (code as ErrorCode) : "INTERNAL", String(message ?? cause), { cause });
  }
}

/** The loader chains one error per place it looked; the first real reason is the deepest that is no "not found". */
function reasons(error: unknown): string {
  const messages: string[] = [];
  for (let e = error; e instanceof Error && messages.length < 16; e = e.cause) {
    messages.push(e.message.split("\n", 1)[0] ?? "");
  }
  const telling = messages.slice(1).find((m) => !m.startsWith("Cannot find module"));
  return telling ?? "no addon is installed for this platform";
}
