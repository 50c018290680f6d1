/** From a checked configuration to what the data plane takes: every field set, nothing decided there. */
import type {
  NativeBalance,
  NativeConfig,
  NativeConnectionLog,
  NativeConnectionTracking,
  NativeDsrMethod,
  NativeEngine,
  NativeMode,
  NativePacketOptions,
  NativeProtocol,
  NativeSendProxy,
  NativeUdpSessions,
  NativeXdpMode,
} from "../native/addon/index.js";
import { hostPort } from "./address.ts";
import { availableCpus } from "./cpus.ts";
import { serverName } from "./hello-routes.ts";
import { listenAddresses, listenKey } from "./listen.ts";
import {
  type Balance,
  type Config,
  type ConnectionTracking,
  type DsrMethod,
  type Engine,
  type FrontendConfig,
  type Mode,
  type Protocol,
  type SendProxy,
  UDP_DEFAULTS,
  type XdpMode,
} from "./schema.ts";

/** What health checks and operators have made of a server; fields left out keep the configured value. */
export interface ServerState {
  up?: boolean;
  draining?: boolean;
  weight?: number;
  /** Twentieths of the weight that count, from 1; fewer than all in slow start. */
  share?: number;
}

/** States by `serverKey()`. */
export type ServerStates = ReadonlyMap<string, ServerState>;

/** Of a server that is not in slow start. */
export const WHOLE_SHARE = 20;

/** How a backend of `config` chooses its servers. */
export const balanceOf = ({ mode }: Config, { balance }: { balance?: Balance | undefined }): Balance =>
  balance ?? (mode === "proxy" ? "round_robin" : "maglev");

/** Whether servers are looked up in a Maglev table. */
export const isByTable = (balance: Balance): boolean => balance === "maglev" || balance === "source_hash";

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
    clientIpv6Prefix: config.limits.client_ipv6_prefix,
    packet: lowerPacketOptions(config),
    ...lowerLog(config),
    frontends: Object.entries(config.frontends).map(([name, frontend]) => ({
      name,
      listen: listenAddresses(frontend).map(hostPort),
      listenKey: listenKey(frontend),
      protocol: frontend.protocol,
      backend: frontend.backend,
      sni: Object.entries(frontend.sni ?? {}).map(([written, backend]) => {
        const name = serverName(written);
        return { says: name.ok ? name.value : written, backend };
      }),
      alpn: Object.entries(frontend.alpn ?? {}).map(([says, backend]) => ({ says, backend })),
      clientHelloTimeoutMs: frontend.client_hello_timeout_ms,
      maxConnections: frontend.max_connections,
      tcpUserTimeoutMs: frontend.tcp_user_timeout_ms,
      tcpFastOpen: frontend.tcp_fast_open,
      mptcp: frontend.mptcp,
      acceptProxy: frontend.accept_proxy,
      proxyTrusted: frontend.proxy_trusted ?? [],
      proxyHeaderTimeoutMs: frontend.proxy_header_timeout_ms,
      allow: frontend.allow ?? [],
      deny: frontend.deny ?? [],
      rate: frontend.max_connection_rate,
      rateBurst: frontend.max_connection_rate_burst ?? frontend.max_connection_rate,
      clientRate: frontend.max_connection_rate_per_client,
      clientRateBurst:
        frontend.max_connection_rate_per_client_burst ?? frontend.max_connection_rate_per_client,
      udp: lowerUdp(frontend),
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
      sourceClient: backend.source === "client",
      sourceAddresses: backend.source === "client" ? [] : (backend.source ?? []),
      ejectAfter: backend.eject_after,
      dsrMethod: backend.dsr_method ?? config.dsr.method,
      balance: balanceOf(config, backend),
      sourceHashIpv6Prefix: backend.source_hash_ipv6_prefix,
      servers: Object.entries(backend.servers).map(([server, its]) => {
        const state = states.get(serverKey(name, server));
        return {
          name: server,
          addr: its.addr,
          weight: state?.weight ?? its.weight,
          maxConnections: its.max_connections,
          up: state?.up ?? true,
          draining: state?.draining ?? false,
          backup: its.backup,
          share: state?.share ?? WHOLE_SHARE,
          sendProxy: its.send_proxy ?? backend.send_proxy,
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

function lowerUdp(frontend: FrontendConfig): NativeUdpSessions {
  const { udp_responses: responses } = frontend;
  return {
    idleTimeoutMs: frontend.udp_idle_timeout_ms ?? UDP_DEFAULTS.udp_idle_timeout_ms,
    maxSessions: frontend.max_sessions ?? UDP_DEFAULTS.max_sessions,
    ...(responses === undefined ? {} : { responses }),
    requests: frontend.udp_requests ?? UDP_DEFAULTS.udp_requests,
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
true satisfies Same<Balance, NativeBalance>;
true satisfies Same<DsrMethod, NativeDsrMethod>;
true satisfies Same<ConnectionTracking, NativeConnectionTracking>;
true satisfies Same<XdpMode, NativeXdpMode>;
true satisfies Same<SendProxy, NativeSendProxy>;
