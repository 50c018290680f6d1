/**
 * What checks ask servers, as the configuration says: read once, with defaults applied, so that a check has nothing left
 * to parse.
 */
import { isIP } from "node:net";
import { parseBytes } from "../../config/bytes.ts";
import { isUdpCheck } from "../../config/health-check-table.ts";
import type { BackendConfig, Config } from "../../config/schema.ts";
import { parseStatusList, type StatusList } from "../../config/status-list.ts";
import type { CheckSettings } from "./monitor.ts";
import { authority } from "./stream.ts";

/** How TLS is spoken. */
export type TlsAsk = {
  /** Asked for by SNI and looked for in the certificate; undefined: the server's address is looked for. */
  name: string | undefined;
  verify: boolean;
  /** File of trusted certificates; undefined: those of Node.js. */
  ca: string | undefined;
};

/** Over a connection: a handshake of TLS alone, a request, or an exchange of bytes. */
export type StreamAsk = { tls: TlsAsk | undefined } & (
  | { kind: "connect" }
  | {
      kind: "http";
      method: string;
      path: string;
      /** undefined: the server's address. */
      host: string | undefined;
      statuses: StatusList;
      /** What the body must hold. */
      body: Buffer | undefined;
    }
  /** `send` may be empty: then the server speaks first. Any answer will do where `expect` is empty. */
  | { kind: "exchange"; send: Buffer; expect: Buffer }
);

/** By a datagram. Without `expect` it is enough that nobody refuses. */
export type DatagramAsk = { kind: "datagram"; send: Buffer; expect: Buffer | undefined };

export type Ask = StreamAsk | DatagramAsk;

/** When checks of this backend's servers are made, and what their results mean. */
export function checkSettings(backend: BackendConfig): CheckSettings {
  const own = backend.health_check;
  const intervalMs = own?.interval_ms ?? backend.health_check_interval * 1000;
  return {
    intervalMs,
    downIntervalMs: own?.down_interval_ms ?? intervalMs,
    fastIntervalMs: own?.fast_interval_ms ?? backend.health_check_fast_interval_ms,
    timeoutMs: own?.timeout_ms ?? backend.health_check_timeout_ms,
    rise: own?.rise ?? backend.health_check_rise,
    fall: own?.fall ?? backend.health_check_fall,
  };
}

/** Whether the servers of a backend are checked at all. */
export const isChecked = ({ health_check }: BackendConfig): boolean => health_check?.type !== "none";

/** What the servers of a backend are asked beyond a connection; undefined where that is all. */
export function askOf({ backends, frontends }: Config, name: string): Ask | undefined {
  const own = backends[name]?.health_check;
  if (own === undefined) return undefined;
  const tls = own.tls === true ? tlsOf(own) : undefined;
  switch (own.type) {
    case "tcp":
      return tls && { kind: "connect", tls };
    case "http": {
      const statuses = parseStatusList(own.expect ?? "200-399");
      return {
        kind: "http",
        tls,
        method: own.method ?? "GET",
        path: own.path ?? "/",
        host: own.host ?? own.tls_sni,
        statuses: statuses.ok ? statuses.value : [],
        body: bytesOf(own.expect_body),
      };
    }
    case "send_expect": {
      const send = bytesOf(own.send) ?? Buffer.alloc(0);
      const expect = bytesOf(own.expect);
      const protocols = Object.values(frontends)
        .filter(({ backend }) => backend === name)
        .map(({ protocol }) => protocol);
      if (isUdpCheck(own.protocol, protocols)) return { kind: "datagram", send, expect };
      return { kind: "exchange", tls, send, expect: expect ?? Buffer.alloc(0) };
    }
    case "none":
      return undefined;
  }
}

/** The same of a server that is configured by name: that stands in for its address where no other name is asked for. */
export function askByName(ask: Ask | undefined, host: string, port: number): Ask | undefined {
  if (ask === undefined || ask.kind === "datagram") return ask;
  const tls = ask.tls && { ...ask.tls, name: ask.tls.name ?? host };
  return ask.kind === "http" ? { ...ask, tls, host: ask.host ?? authority({ host, port }) } : { ...ask, tls };
}

function tlsOf({ host, tls_sni, tls_verify, tls_ca }: NonNullable<BackendConfig["health_check"]>): TlsAsk {
  const hostName = host?.replace(/:\d+$/, "");
  const named = hostName !== undefined && isIP(hostName.replace(/^\[|\]$/g, "")) === 0 ? hostName : undefined;
  return { name: tls_sni ?? named, verify: tls_verify ?? true, ca: tls_ca };
}

function bytesOf(text: string | undefined): Buffer | undefined {
  if (text === undefined) return undefined;
  const bytes = parseBytes(text);
  // The schema has read it before.
  return bytes.ok ? bytes.value : undefined;
}
