import { expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import type { ConfigInput } from "../../../ts/config/schema.ts";

const least: ConfigInput = {
  frontends: { web: { listen_addr: ":3000", backend: "pool" } },
  backends: { pool: { servers: { s1: { addr: "127.0.0.1:8081" } } } },
};

test("defaults are applied to what is left out, and to nothing else", () => {
  expect(checkConfig(least)).toEqual({
    ok: true,
    warnings: [],
    config: {
      mode: "proxy",
      engine: "auto",
      interfaces: [],
      frontends: {
        web: {
          listen_addr: "0.0.0.0:3000",
          backend: "pool",
          protocol: "tcp",
          max_connections: 0,
          tcp_user_timeout_ms: 0,
          tcp_fast_open: 0,
          mptcp: false,
          accept_proxy: false,
          client_hello_timeout_ms: 3000,
          proxy_header_timeout_ms: 3000,
          max_connection_rate: 0,
          max_connection_rate_per_client: 0,
        },
      },
      backends: {
        pool: {
          health_check_interval: 5,
          health_check_timeout_ms: 2000,
          health_check_fast_interval_ms: 1000,
          health_check_rise: 2,
          health_check_fall: 3,
          connect_timeout_ms: 3000,
          retries: 2,
          idle_timeout_ms: 300_000,
          max_duration_ms: 0,
          half_close_timeout_ms: 0,
          tcp_user_timeout_ms: 0,
          max_connections: 0,
          queue: 0,
          queue_timeout_ms: 5000,
          retry_timeout_ms: 0,
          source_hash_ipv6_prefix: 64,
          slow_start_ms: 0,
          send_proxy: "off",
          on_down: "keep",
          eject_after: 0,
          eject_ms: 30_000,
          max_ejected_percent: 50,
          servers: { s1: { addr: "127.0.0.1:8081", weight: 1, max_connections: 0, backup: false } },
        },
      },
      proxy: { workers: 0 },
      passthrough: {
        connection_tracker_capacity: 1_048_576,
        workers: 0,
        stats_update_frequency: 5,
        port_range: "33768-61000",
        nat_addresses: [],
        timeouts: {
          syn_ms: 30_000,
          established_ms: 7_440_000,
          fin_ms: 120_000,
          dsr_fin_ms: 10_000,
          closed_ms: 60_000,
          udp_ms: 30_000,
          udp_stream_ms: 300_000,
        },
      },
      dsr: { method: "rewrite", connection_tracking: "full" },
      xdp: { mode: "native" },
      resolver: {
        servers: [],
        timeout_ms: 1000,
        retries: 2,
        min_ttl_ms: 1000,
        max_ttl_ms: 60_000,
        hold_ms: 30_000,
      },
      limits: { max_connections: 0, max_connections_per_client: 0, client_ipv6_prefix: 64 },
      reload: { watch: true },
      shutdown: { drain_timeout_ms: 30_000, delay_ms: 0, keep_forwarding: false },
      log: { level: "info", connections: "off" },
    },
  });
});

test("a health check interval of 0 means 5 seconds", () => {
  const result = checkConfig({ ...least, backends: { pool: { health_check_interval: 0 } } });
  expect(result).toMatchObject({ ok: true, config: { backends: { pool: { health_check_interval: 5 } } } });
});

test("a checked configuration is accepted again and stays as it is", () => {
  const once = checkConfig({ ...least, stats: { port: "7000" } });
  if (!once.ok) throw new Error("refused");
  expect(checkConfig(once.config)).toEqual(once);
});

test("problems of an object have a key path and no place", () => {
  expect(checkConfig({ ...least, mode: "tcp" })).toEqual({
    ok: false,
    problems: [
      {
        severity: "error",
        path: "mode",
        message: "is not a value it can have",
        found: '"tcp"',
        expected: 'one of "proxy", "passthrough", "dsr"',
      },
    ],
  });
});

test("keys that are undefined count as left out", () => {
  expect(checkConfig({ ...least, mode: undefined, stats: undefined })).toMatchObject({ ok: true });
});

test("the input is left untouched", () => {
  const input = structuredClone(least);
  checkConfig(input, [{ path: ["mode"], value: "dsr", origin: "--mode" }]);
  expect(input).toEqual(least);
});

class Settings {
  port = 1;
}
const circle: Record<string, unknown> = {};
circle.frontends = circle;

test.each([
  ["undefined", undefined, "nothing"],
  ["null", null, "null"],
  ["a number", 7, "7"],
  ["a text", "frontends", '"frontends"'],
  ["an array", [], "an array"],
  ["a function", () => 0, "a function"],
  ["a date", new Date(0), "a date or time"],
  ["a Map", new Map(), "an object that is not plain"],
])("%s is no configuration", (_, input, found) => {
  expect(checkConfig(input)).toEqual({
    ok: false,
    problems: [
      {
        severity: "error",
        path: "",
        message: "the configuration is not a table",
        found,
        expected: "a table of settings",
      },
    ],
  });
});

test("objects that are not plain are no tables", () => {
  for (const stats of [new Settings(), new Map(), new Date(0), []]) {
    const result = checkConfig({ ...least, stats });
    expect(result).toMatchObject({ ok: false, problems: [{ path: "stats", message: "has the wrong type" }] });
  }
});

test("objects that contain themselves end in problems", () => {
  expect(checkConfig(circle).ok).toBe(false);
  expect(checkConfig({ ...least, stats: circle }).ok).toBe(false);
});

test("a big integer is no integer of a configuration", () => {
  expect(checkConfig({ ...least, proxy: { workers: 2n } })).toMatchObject({
    ok: false,
    problems: [{ path: "proxy.workers", found: "2", message: "has the wrong type" }],
  });
});
