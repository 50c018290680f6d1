import { describe, expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import type { Config } from "../../../ts/config/schema.ts";
import type { Stats } from "../../../ts/control/stats.ts";
import { Metrics } from "../../../ts/metrics/metrics.ts";
import { packetStats } from "../../support/packet-stats.ts";

/** Statistics of a balancer with these servers in backend "pool" of frontend "web". */
function statsOf(servers: readonly string[], more: Partial<Stats> = {}): Stats {
  const counters = { total_connections: 7, current_connections: 2, bytes_tx: 10, bytes_rx: 20 };
  return {
    ...counters,
    total_bytes_tx: 10,
    total_bytes_rx: 20,
    lost_log_lines: 0,
    frontends: { web: { ...counters, address: "127.0.0.1:80", backend: "pool", reasons: { no_server: 3 } } },
    backends: {
      pool: {
        ...counters,
        balance: "round_robin",
        servers: {},
        server_details: Object.fromEntries(
          servers.map((name, n) => [
            name,
            {
              ...counters,
              addr: `10.0.0.1:${n}`,
              up: true,
              weight: 5,
              effective_weight: 5,
              backup: false,
              draining: false,
              origin: "file",
              last_check: { at: "2026-01-01T00:00:00.000Z", ok: true, duration_ms: 1.5, cause: "connected" },
              reasons: {},
            },
          ]),
        ),
      },
    },
    version: "1.2.3",
    uptime_seconds: 9,
    mode: "proxy",
    config_version: 1,
    draining: false,
    reasons: { no_server: 3 },
    last_reload: null,
    ...more,
  };
}

function configOf(servers: readonly string[], limits = {}): Config {
  const checked = checkConfig({
    frontends: { web: { listen_addr: "127.0.0.1:0", backend: "pool" } },
    backends: {
      pool: {
        servers: Object.fromEntries(
          servers.map((name, n) => [name, { addr: `10.0.0.1:${n + 1}`, ...limits }]),
        ),
      },
    },
  });
  if (!checked.ok) throw new Error(JSON.stringify(checked.problems));
  return checked.config;
}

const metricsOf = (stats: () => Stats, config: Config = configOf(["s1"])): Metrics =>
  new Metrics({
    stats,
    readiness: () => ({ ready: true, reason: "", frontends: { web: true } }),
    config: () => config,
  });

const text = async (metrics: Metrics, format: "text" | "openmetrics" = "text"): Promise<string[]> =>
  (await metrics.read(format)).split("\n");

describe("series follow the names of the configuration", () => {
  test("a server that left has no series any more, nor its checks, and begins anew when it comes back", async () => {
    let stats = statsOf(["s1", "s2"]);
    const metrics = metricsOf(() => stats);
    metrics.checked("pool/s2", { ok: false, durationMs: 3 });
    const failed = 'convey_server_checks_total{result="failed",backend="pool",server="s2"}';
    expect(await text(metrics)).toContain(`${failed} 1`);
    stats = statsOf(["s1"]);
    expect((await text(metrics)).filter((line) => line.includes('"s2"'))).toEqual([]);
    stats = statsOf(["s1", "s2"]);
    expect(await text(metrics)).toContain(`${failed} 0`);
  });

  test("what was counted of names that left is forgotten with the change, scraped or not", async () => {
    let stats = statsOf(["s1", "s2"]);
    const metrics = metricsOf(() => stats);
    metrics.checked("pool/s2", { ok: true, durationMs: 3 });
    stats = statsOf(["s1"]);
    metrics.note({
      type: "servers",
      changes: [],
      config_version: 2,
      at: new Date(),
    });
    stats = statsOf(["s1", "s2"]);
    expect(await text(metrics)).toContain(
      'convey_server_checks_total{result="ok",backend="pool",server="s2"} 0',
    );
  });

  test("a name with quotes and backslashes is one label value", async () => {
    const name = 'a"b\\c{d}';
    const lines = await text(metricsOf(() => statsOf([name])));
    expect(lines).toContain('convey_backend_server_up{backend="pool",server="a\\"b\\\\c{d}"} 1');
  });
});

test("what DSR does not see is absent, not zero", async () => {
  const lines = await text(metricsOf(() => statsOf(["s1"], { mode: "dsr", return_path_visible: false })));
  expect(lines.filter((line) => line.includes('direction="tx"')).length).toBe(4);
  expect(lines.filter((line) => line.includes('direction="rx"'))).toEqual([]);
});

test("connections that are not counted are absent", async () => {
  const stats = statsOf([]);
  delete stats.total_connections;
  delete stats.current_connections;
  const lines = await text(metricsOf(() => stats));
  expect(lines.filter((line) => /^convey_(current_)?connections/.test(line))).toEqual([]);
});

test("both formats can be had in any order, and each has its own names of counters", async () => {
  const metrics = metricsOf(() => statsOf(["s1"]));
  for (const format of ["openmetrics", "text", "openmetrics", "text"] as const) {
    const lines = await text(metrics, format);
    const type = format === "text" ? "convey_connections_total" : "convey_connections";
    expect(lines, format).toContain(`# TYPE ${type} counter`);
    expect(lines, format).toContain("convey_connections_total 7");
    expect(lines.includes("# EOF"), format).toBe(format === "openmetrics");
  }
});

test("durations of checks add up in the histogram of their backend", async () => {
  const metrics = metricsOf(() => statsOf(["s1"]));
  for (const durationMs of [0.2, 30, 30_000]) metrics.checked("pool/s1", { ok: true, durationMs });
  const lines = (await text(metrics)).filter((line) => line.startsWith("convey_health_check_duration"));
  expect(lines).toContain('convey_health_check_duration_seconds_bucket{le="0.0005",backend="pool"} 1');
  expect(lines).toContain('convey_health_check_duration_seconds_bucket{le="0.05",backend="pool"} 2');
  expect(lines).toContain('convey_health_check_duration_seconds_bucket{le="+Inf",backend="pool"} 3');
  expect(lines).toContain('convey_health_check_duration_seconds_count{backend="pool"} 3');
  expect(lines).toContain('convey_health_check_duration_seconds_sum{backend="pool"} 30.0302');
});

test("limits are there where something is limited", async () => {
  const config = configOf(["s1"], { max_connections: 40 });
  const lines = await text(metricsOf(() => statsOf(["s1"]), config));
  expect(lines).toContain('convey_server_limit_connections{backend="pool",server="s1"} 40');
  expect(lines.filter((line) => line.startsWith("convey_frontend_limit_connections"))).toEqual([]);
});

test("a server is in one state at a time, and backends count theirs", async () => {
  const stats = statsOf(["s1", "s2", "s3"]);
  const servers = stats.backends.pool?.server_details ?? {};
  Object.assign(servers.s1 ?? {}, { up: false, draining: true });
  Object.assign(servers.s2 ?? {}, { draining: true });
  const lines = await text(metricsOf(() => stats));
  const on = lines.filter((line) => /^convey_server_status.* 1$/.test(line));
  expect(on).toEqual([
    'convey_server_status{state="down",backend="pool",server="s1"} 1',
    'convey_server_status{state="draining",backend="pool",server="s2"} 1',
    'convey_server_status{state="up",backend="pool",server="s3"} 1',
  ]);
  for (const state of ["up", "draining", "down"]) {
    expect(lines).toContain(`convey_backend_servers{state="${state}",backend="pool"} 1`);
  }
});

test("packet modes tell engine, flow table and every reason", async () => {
  const stats = statsOf(["s1"], {
    mode: "passthrough",
    ...packetStats(),
  });
  expect(await text(metricsOf(() => stats))).toEqual(
    expect.arrayContaining([
      'convey_engine_info{engine="tc",guard="tcx"} 1',
      'convey_engine_refused_info{engine="xdp",kind="unsupported"} 1',
      "convey_flow_table_entries 4",
      "convey_flow_table_capacity 100",
      "convey_forwarded_packets_total 50",
      'convey_replied_packets_total{kind="rst"} 1',
      'convey_answered_packets_total{reason="ports_exhausted"} 1',
      'convey_passed_packets_total{reason="not_ours"} 3',
      'convey_dropped_packets_total{reason="fragment_refused"} 2',
      'convey_noted_packets_total{kind="flow_begun"} 4',
      'convey_nat_port_probes_total{probes="25+"} 1',
      'convey_nat_port_probes_total{probes="8-15"} 0',
      'convey_guard_dropped_packets_total{kind="to_vip"} 1',
      "convey_worker_panics_total 2",
    ]),
  );
});
