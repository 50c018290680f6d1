/** From a checked configuration to what the data plane takes: every field set, nothing decided there. */
import type {
  NativeConfig,
  NativeConnectionLog,
  NativeConnectionTracking,
  NativeDsrMethod,
  NativeEngine,
  NativeMode,
  NativePacketOptions,
  NativeProtocol,
  NativeXdpMode,
} from "../native/addon/index.js";
import { availableCpus } from "./cpus.ts";
import type { Config, ConnectionTracking, DsrMethod, Engine, Mode, Protocol, XdpMode } from "./schema.ts";

/** What health checks and operators have made of a server; fields left out keep the configured value. */
export interface ServerState {
  up?: boolean;
  draining?: boolean;
  weight?: number;
}

/** States by `serverKey()`. */
export type ServerStates = ReadonlyMap<string, ServerState>;

/** `backend/server`: unambiguous, since names cannot contain a slash. */
export function serverKey(backend: string, server: string): string {
  return `${backend}/${server}`;
}

/** A server without a state is up: it counts as up until proven down. */
export function lower(config: Config, states: ServerStates = new Map()): NativeConfig {
  const workers = config.mode === "proxy" ? config.proxy.workers : config.passthrough.workers;
  return {
    mode: config.mode,
    workers: workers || availableCpus(),
    maxConnections: config.limits.max_connections,
    maxConnectionsPerClient: config.limits.max_connections_per_client,
    packet: lowerPacketOptions(config),
    ...lowerLog(config),
    frontends: Object.entries(config.frontends).map(([name, frontend]) => ({
      name,
      listen: frontend.listen_addr,
      protocol: frontend.protocol,
      backend: frontend.backend,
      maxConnections: frontend.max_connections,
      tcpUserTimeoutMs: frontend.tcp_user_timeout_ms,
      tcpFastOpen: frontend.tcp_fast_open,
      mptcp: frontend.mptcp,
    })),
    backends: Object.entries(config.backends).map(([name, backend]) => ({
      name,
      connectTimeoutMs: backend.connect_timeout_ms,
      retries: backend.retries,
      idleTimeoutMs: backend.idle_timeout_ms,
      maxDurationMs: backend.max_duration_ms,
      maxConnections: backend.max_connections,
      queue: backend.queue,
      queueTimeoutMs: backend.queue_timeout_ms,
      retryTimeoutMs: backend.retry_timeout_ms,
      halfCloseTimeoutMs: backend.half_close_timeout_ms,
      tcpUserTimeoutMs: backend.tcp_user_timeout_ms,
      ejectAfter: backend.eject_after,
      dsrMethod: backend.dsr_method ?? config.dsr.method,
      servers: Object.entries(backend.servers).map(([server, { addr, weight, max_connections }]) => {
        const state = states.get(serverKey(name, server));
        return {
          name: server,
          addr,
          weight: state?.weight ?? weight,
          maxConnections: max_connections,
          up: state?.up ?? true,
          draining: state?.draining ?? false,
        };
      }),
    })),
  } satisfies NativeConfig;
}

/** Of those that end well, "errors" logs none. */
function lowerLog({ mode, log }: Config): { log?: NativeConnectionLog } {
  if (mode !== "proxy" || log.connections === "off") return {};
  const share = { errors: 0, all: 1 };
  return {
    log: {
      share: typeof log.connections === "number" ? log.connections : share[log.connections],
      ...(log.connections_file === undefined ? {} : { file: log.connections_file }),
    },
  };
}

function lowerPacketOptions({ engine, interfaces, passthrough, dsr, xdp }: Config): NativePacketOptions {
  const [firstPort = 0, lastPort = 0] = passthrough.port_range.split("-").map(Number);
  const { timeouts } = passthrough;
  return {
    engine,
    capacity: passthrough.connection_tracker_capacity,
    firstPort,
    lastPort,
    natAddresses: passthrough.nat_addresses,
    interfaces,
    connectionTracking: dsr.connection_tracking,
    xdpMode: xdp.mode,
    timeouts: {
      synMs: timeouts.syn_ms,
      establishedMs: timeouts.established_ms,
      finMs: timeouts.fin_ms,
      dsrFinMs: timeouts.dsr_fin_ms,
      closedMs: timeouts.closed_ms,
      udpMs: timeouts.udp_ms,
      udpStreamMs: timeouts.udp_stream_ms,
    },
  };
}

// The enums of the schema and of the boundary are the same sets: a word added on one side alone stops here.
type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : never) : never;
true satisfies Same<Mode, NativeMode>;
true satisfies Same<Protocol, NativeProtocol>;
true satisfies Same<Engine, NativeEngine>;
true satisfies Same<DsrMethod, NativeDsrMethod>;
true satisfies Same<ConnectionTracking, NativeConnectionTracking>;
true satisfies Same<XdpMode, NativeXdpMode>;
