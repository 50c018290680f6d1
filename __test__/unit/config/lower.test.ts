import { expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import { availableCpus } from "../../../ts/config/cpus.ts";
import { lower, serverKey } from "../../../ts/config/lower.ts";
import type { Config, ConfigInput } from "../../../ts/config/schema.ts";

const input: ConfigInput = {
  frontends: {
    web: {
      listen_addr: ":3000",
      backend: "pool",
      max_connections: 7,
      tcp_user_timeout_ms: 20,
      tcp_fast_open: true,
      mptcp: true,
    },
    six: { listen_addr: "[0:0::1]:0", backend: "pool" },
  },
  backends: {
    pool: {
      connect_timeout_ms: 11,
      retries: 1,
      idle_timeout_ms: 12,
      max_duration_ms: 13,
      half_close_timeout_ms: 14,
      tcp_user_timeout_ms: 15,
      max_connections: 16,
      queue: 17,
      queue_timeout_ms: 18,
      retry_timeout_ms: 19,
      servers: {
        a: { addr: "127.0.0.1:8081", weight: 3 },
        b: { addr: "[2001:DB8::1]:80", max_connections: 9 },
      },
    },
  },
  limits: { max_connections: 100, max_connections_per_client: 10 },
};

function checked(extra: Partial<ConfigInput> = {}): Config {
  const result = checkConfig({ ...input, ...extra });
  if (!result.ok) throw new Error(JSON.stringify(result.problems));
  return result.config;
}

test("every setting of proxy mode reaches the data plane, addresses in canonical form", () => {
  expect(lower(checked({ proxy: { workers: 3 } }))).toMatchObject({
    mode: "proxy",
    workers: 3,
    maxConnections: 100,
    maxConnectionsPerClient: 10,
    frontends: [
      {
        name: "web",
        listen: ["0.0.0.0:3000"],
        protocol: "tcp",
        backend: "pool",
        maxConnections: 7,
        tcpUserTimeoutMs: 20,
        tcpFastOpen: 256,
        mptcp: true,
      },
      { name: "six", listen: ["[::1]:0"], protocol: "tcp", backend: "pool", maxConnections: 0 },
    ],
    backends: [
      {
        name: "pool",
        connectTimeoutMs: 11,
        retries: 1,
        idleTimeoutMs: 12,
        maxDurationMs: 13,
        halfCloseTimeoutMs: 14,
        tcpUserTimeoutMs: 15,
        maxConnections: 16,
        queue: 17,
        queueTimeoutMs: 18,
        retryTimeoutMs: 19,
        balance: "round_robin",
        sourceHashIpv6Prefix: 64,
        servers: [
          {
            name: "a",
            addr: "127.0.0.1:8081",
            weight: 3,
            maxConnections: 0,
            up: true,
            draining: false,
            backup: false,
            share: 20,
          },
          {
            name: "b",
            addr: "[2001:db8::1]:80",
            weight: 1,
            maxConnections: 9,
            up: true,
            draining: false,
            backup: false,
            share: 20,
          },
        ],
      },
    ],
  });
});

test("0 workers are one for each core that this process may use", () => {
  expect(lower(checked()).workers).toBe(availableCpus());
});

test("the packet modes take their own number of workers", () => {
  const packet = checked({
    mode: "passthrough",
    proxy: { workers: 3 },
    passthrough: { workers: 2 },
    limits: {},
    frontends: { web: { listen_addr: ":80", backend: "pool" } },
    backends: { pool: { servers: { a: { addr: "10.0.0.1:80" } } } },
  });
  expect(lower(packet).workers).toBe(2);
});

test("lifetimes of flows reach the data plane, each under its name, the others with their defaults", () => {
  const timeouts = {
    syn_ms: 101,
    established_ms: 102,
    fin_ms: 103,
    dsr_fin_ms: 104,
    closed_ms: 105,
    udp_ms: 106,
    udp_stream_ms: 107,
  };
  expect(lower(checked({ passthrough: { timeouts } })).packet.timeouts).toEqual({
    synMs: 101,
    establishedMs: 102,
    finMs: 103,
    dsrFinMs: 104,
    closedMs: 105,
    udpMs: 106,
    udpStreamMs: 107,
  });
  expect(lower(checked({ passthrough: { timeouts: { closed_ms: 1000 } } })).packet.timeouts).toEqual({
    synMs: 30_000,
    establishedMs: 7_440_000,
    finMs: 120_000,
    dsrFinMs: 10_000,
    closedMs: 1000,
    udpMs: 30_000,
    udpStreamMs: 300_000,
  });
});

test("states replace what they name and leave the rest", () => {
  const states = new Map([
    [serverKey("pool", "a"), { up: false, weight: 0 }],
    [serverKey("pool", "b"), { draining: true }],
    [serverKey("gone", "a"), { up: false }],
  ]);
  expect(lower(checked(), states).backends[0]?.servers).toMatchObject([
    { name: "a", up: false, draining: false, weight: 0 },
    { name: "b", up: true, draining: true, weight: 1 },
  ]);
});

test("lowering changes neither configuration nor states", () => {
  const config = checked();
  const before = structuredClone(config);
  lower(config, new Map([[serverKey("pool", "a"), { weight: 9 }]]));
  expect(config).toEqual(before);
});
