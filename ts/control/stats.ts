/**
 * `/stats`: the field names and types of 0.3.5, and our additions beside them. tx is client→server, rx is
 * server→client, everywhere.
 */
import { serverKey } from "../config/lower.ts";
import type { Mode } from "../config/schema.ts";
import type {
  NativeCounters,
  NativeGuardDrops,
  NativePacketStats,
  NativeQueueStats,
  NativeReason,
  NativeRefusedEngine,
  NativeServerStats,
  NativeStats,
} from "../native/index.ts";
import type { ReloadEvent } from "./events.ts";
import type { LastCheck } from "./health/monitor.ts";
import type { ReloadStatus } from "./reload.ts";
import type { ServerRecord, ServerRecords } from "./states.ts";
import { isUp, weightOf } from "./states.ts";
import { VERSION } from "./version.ts";

/** Connections, absent where they are not counted (dsr mode with minimal tracking). */
export type ConnectionStats = { total_connections?: number; current_connections?: number };

/** Connections and bytes of one frontend, backend or server. */
export type CounterStats = ConnectionStats & {
  bytes_tx: number;
  bytes_rx: number;
};

/** How often something happened, by reason; what never happened is absent. */
export type Reasons = Record<string, number>;

/** The latest finished health check. */
export type CheckStats = {
  at: string;
  ok: boolean;
  duration_ms: number;
  cause: string;
  /** The beginning of what the server said, without characters that act on a terminal; absent where it said nothing. */
  answer?: string;
};

export type ServerStats = CounterStats & {
  addr: string;
  /** Whether it may get connections: checks hold it for up, and it is not ejected. */
  up: boolean;
  /** It was ejected until then; absent while it is not. */
  ejected_until?: string;
  /** The weight in force, which may have been set at run time. */
  weight: number;
  /**
   * The weight that selection goes by: 0 while it is down or draining and for a backup that waits, a part of its weight
   * in slow start.
   */
  effective_weight: number;
  /** Gets connections only while no other server can take one. */
  backup: boolean;
  draining: boolean;
  /** "runtime": added, or set to other settings than the configuration's, at run time; its weight alone does not count. */
  origin: "file" | "runtime";
  /** null before the first check has finished. */
  last_check: CheckStats | null;
  reasons: Reasons;
};

/** Connections that wait for a place at a backend, or for a server of it to come up. */
export type QueueStats = {
  waiting: number;
  /** Those that have waited or wait. */
  total: number;
  /** Those closed because `queue_timeout_ms` was over. */
  timed_out: number;
  /** Those closed because as many waited as may. */
  refused: number;
};

export type BackendStats = CounterStats & {
  /** Only in proxy mode. */
  queue?: QueueStats;
  /** How its servers are chosen. */
  balance: string;
  /** "ip:port" → up, as in 0.3.5. */
  servers: Record<string, boolean>;
  /** The same servers by name. */
  server_details: Record<string, ServerStats>;
};

export type FrontendStats = CounterStats & {
  /** Where it listens, with the port the kernel chose; "" while it does not. */
  address: string;
  backend: string;
  /** Every backend that it may send to, its own first; only where it routes by ClientHello. */
  backends?: string[];
  reasons: Reasons;
};

/** Packets that the guard kept from the kernel: to a frontend, from a server to a NAT port, ICMP errors about either. */
export type GuardStats = { to_vip: number; from_server: number; icmp_errors: number };

/** An engine that "auto" would have preferred, and why it was not taken. */
export type RefusedEngine = {
  engine: string;
  /** "permission", "no_interface", "unsupported" or "failed". */
  kind: string;
  /** What the system answered, as in errno(3); absent where no system call is behind it. */
  errno?: number;
  cause: string;
  /** What to try; "" where nobody knows. */
  remedy: string;
};

/** What the packet modes add to `/stats`. A super-frame, as network cards put them together, counts once. */
export type PacketStats = {
  /** What moves the packets: "tc", "xdp", "af_xdp" or "af_packet". */
  engine: string;
  /** Engines that "auto" would have preferred to it, in order. */
  engines_refused: RefusedEngine[];
  /** Times a worker was started again after a panic, which an event and the log tell too. */
  worker_panics: number;
  /** How the kernel is kept from answering what is forwarded: "tcx" (a program of ours), "nft", or "" for not. */
  guard: string;
  /** Where packets are taken in and sent. */
  interfaces: string[];
  /** The flow table: flows held now, ended ones included until they are swept, and how many fit. */
  flows: { current: number; capacity: number };
  packets: {
    forwarded: number;
    /** Answered by the balancer itself, by kind. */
    replied: Reasons;
    /** Why the balancer answered instead of sending on, by reason; each is in `replied` as well. */
    answered: Reasons;
    /** Left to the kernel, by reason: not for a frontend, ICMP echo and the like. */
    passed: Reasons;
    /** Dropped, or lost on the way in or out, by reason. */
    dropped: Reasons;
    /** What happened on the way to one of these, by kind: "flow_begun", "out_of_window", "port_taken_over" and others. */
    noted: Reasons;
    /**
     * Free NAT ports taken (passthrough), by how many ports were looked at to find one: "1", "2-3", "4-7", "8-15",
     * "16-24", "25+". Where the last ones grow, ports are getting scarce: add `passthrough.nat_addresses`.
     */
    nat_port_probes: Reasons;
    /** Kept from the kernel, as the engine has them; absent where the guard is nft, which counts in its own rules. */
    guard?: GuardStats;
  };
};

/** How the latest reload ended; see `ReloadEvent`. */
export type LastReload = {
  at: string;
  result: ReloadEvent["result"];
  source: ReloadEvent["source"];
  message: string;
  /** When it is rolled back unless it is confirmed before; absent when nothing waits for that. */
  confirm_by?: string;
  /** The file says something else than what is in service: it was refused, rolled back, or a program's update came after it. */
  file_differs?: true;
};

/** The body of `GET /stats`. */
export type Stats = Partial<PacketStats> &
  ConnectionStats & {
    total_bytes_tx: number;
    total_bytes_rx: number;
    backends: Record<string, BackendStats>;
    frontends: Record<string, FrontendStats>;
    version: string;
    uptime_seconds: number;
    mode: Mode;
    /** Counts configurations put in service, from 1. */
    config_version: number;
    /** Whether the balancer is closing: after `shutdown.delay_ms` it takes no new connections. */
    draining: boolean;
    reasons: Reasons;
    /** Lines of `log.connections` that were lost because they could not be written in time. */
    lost_log_lines: number;
    /** null until a reload was tried. */
    last_reload: LastReload | null;
    /** Only in dsr mode: answers do not cross the balancer, so rx is 0. */
    return_path_visible?: false;
  };

/** What `/stats` is made of beside the counters. */
export type StatsContext = {
  mode: Mode;
  startedAt: number;
  configVersion: number;
  draining: boolean;
  records: ServerRecords;
  /** Frontend name → names of the backends that it may send to, its own first. */
  routes: ReadonlyMap<string, readonly string[]>;
  lastCheck: (key: string) => LastCheck | undefined;
  lastReload: ReloadStatus | undefined;
  isRuntime: (key: string) => boolean;
};

export function buildStats(native: NativeStats, context: StatsContext): Stats {
  return {
    ...overview(native, context),
    uptime_seconds: Math.floor((performance.now() - context.startedAt) / 1000),
    backends: Object.fromEntries(
      native.backends.map((backend) => [
        backend.name,
        {
          ...counters(backend.counters),
          ...queueStats(backend.queue),
          balance: backend.balance,
          servers: anyUp(backend.servers),
          server_details: Object.fromEntries(
            backend.servers.map((server) => {
              const key = serverKey(backend.name, server.name);
              const origin = context.isRuntime(key) ? "runtime" : "file";
              const record = context.records.get(key);
              return [server.name, serverStats(server, record, context.lastCheck(key), origin)];
            }),
          ),
        },
      ]),
    ),
    frontends: Object.fromEntries(
      native.frontends.map((frontend) => [
        frontend.name,
        {
          ...counters(frontend.counters),
          address: frontend.address,
          ...routed(context.routes.get(frontend.name)),
          reasons: reasons(frontend.reasons),
        },
      ]),
    ),
  };
}

/** The backend of a frontend, and all of them where there are more. */
export function routed(backends: readonly string[] = []): Pick<FrontendStats, "backend" | "backends"> {
  return { backend: backends[0] ?? "", ...(backends.length > 1 ? { backends: [...backends] } : {}) };
}

/** What stands beside frontends, backends and uptime. */
export function overview(
  native: NativeStats,
  context: StatsContext,
): Omit<Stats, "backends" | "frontends" | "uptime_seconds"> {
  const { lastReload } = context;
  return {
    ...connections(native.counters),
    total_bytes_tx: native.counters.bytesTx,
    total_bytes_rx: native.counters.bytesRx,
    version: VERSION,
    mode: context.mode,
    config_version: context.configVersion,
    draining: context.draining,
    reasons: reasons(native.reasons),
    lost_log_lines: native.lostLogLines,
    last_reload: lastReload === undefined ? null : toLastReload(lastReload),
    ...(native.packet === undefined ? {} : packetStats(native.packet)),
    ...(context.mode === "dsr" ? { return_path_visible: false as const } : {}),
  };
}

function toLastReload({ at, confirm_by, ...rest }: ReloadStatus): LastReload {
  const by = confirm_by === undefined ? {} : { confirm_by: confirm_by.toISOString() };
  return { at: at.toISOString(), ...rest, ...by };
}

function packetStats(native: NativePacketStats): PacketStats {
  return {
    engine: native.engine,
    engines_refused: native.refused.map(refusedEngine),
    worker_panics: native.workerPanics,
    guard: native.guard,
    interfaces: native.interfaces,
    flows: { current: native.flows, capacity: native.flowCapacity },
    packets: {
      forwarded: native.forwarded,
      replied: reasons(native.replied),
      answered: reasons(native.answered),
      passed: reasons(native.passed),
      dropped: reasons(native.dropped),
      noted: reasons(native.noted),
      nat_port_probes: reasons(native.natPortProbes),
      ...(native.guardDrops === undefined ? {} : { guard: guardStats(native.guardDrops) }),
    },
  };
}

function refusedEngine({ engine, kind, errno, cause, remedy }: NativeRefusedEngine): RefusedEngine {
  return { engine, kind, ...(errno === undefined ? {} : { errno }), cause, remedy };
}

function guardStats({ toVip, fromServer, icmpErrors }: NativeGuardDrops): GuardStats {
  return { to_vip: toVip, from_server: fromServer, icmp_errors: icmpErrors };
}

function serverStats(
  server: NativeServerStats,
  record: ServerRecord | undefined,
  check: LastCheck | undefined,
  origin: ServerStats["origin"],
): ServerStats {
  return {
    ...counters(server.counters),
    addr: server.addr,
    up: record === undefined ? server.up : isUp(record),
    ...(record?.ejection && { ejected_until: record.ejection.until.toISOString() }),
    weight: record === undefined ? server.weight : weightOf(record),
    effective_weight: server.effectiveWeight,
    backup: server.backup,
    draining: record?.draining ?? server.draining,
    origin,
    last_check:
      check === undefined
        ? null
        : {
            at: check.at.toISOString(),
            ok: check.ok,
            duration_ms: Math.round(check.durationMs * 1000) / 1000,
            cause: check.cause,
            ...(check.answer === undefined ? {} : { answer: check.answer }),
          },
    reasons: reasons(server.reasons),
  };
}

/** Two servers of a backend may share an address; it is up when one of them is. */
function anyUp(servers: readonly NativeServerStats[]): Record<string, boolean> {
  const up = new Map<string, boolean>();
  for (const server of servers) up.set(server.addr, server.up || up.get(server.addr) === true);
  return Object.fromEntries(up);
}

function connections({ totalConnections, currentConnections }: NativeCounters): ConnectionStats {
  if (totalConnections === undefined || currentConnections === undefined) return {};
  return { total_connections: totalConnections, current_connections: currentConnections };
}

function counters(native: NativeCounters): CounterStats {
  return {
    ...connections(native),
    bytes_tx: native.bytesTx,
    bytes_rx: native.bytesRx,
  };
}

export function queueStats(native: NativeQueueStats | undefined): { queue?: QueueStats } {
  if (native === undefined) return {};
  const { waiting, total, timedOut, refused } = native;
  return { queue: { waiting, total, timed_out: timedOut, refused } };
}

const reasons = (native: readonly NativeReason[]): Reasons =>
  Object.fromEntries(native.map(({ reason, count }) => [reason, count]));
