import { describe, expect, test } from "vitest";
import { buildStats, type Stats, type StatsContext } from "../../../ts/control/stats.ts";
import { renderShell } from "../../../ts/dashboard/shell.tsx";
import type { NativeStats } from "../../../ts/native/index.ts";

const none = { totalConnections: 0, currentConnections: 0, bytesTx: 0, bytesRx: 0 };

const native = (packet?: NativeStats["packet"]): NativeStats => ({
  version: 1,
  lostLogLines: 0,
  counters: none,
  reasons: [],
  frontends: [],
  backends: [],
  ...(packet === undefined ? {} : { packet }),
});

const packet = {
  engine: "af_packet",
  refused: [
    { engine: "xdp", kind: "unsupported", cause: "front is a veth", remedy: "" },
    { engine: "tc", kind: "unsupported", errno: 95, cause: "front has no tcx", remedy: "use a newer kernel" },
  ],
  workerPanics: 2,
  guard: "nft",
  interfaces: ["front", "<back>"],
  notes: ["nft keeps the kernel out, because BPF is refused: EPERM"],
  flows: 3,
  flowCapacity: 1_048_576,
  forwarded: 70_000,
  replied: [{ reason: "tcp_reset", count: 1 }],
  answered: [{ reason: "no_flow", count: 1 }],
  passed: [{ reason: "not_vip", count: 2 }],
  dropped: [{ reason: "bad_checksum", count: 4 }],
  noted: [{ reason: "port_taken_over", count: 5 }],
  natPortProbes: [
    { reason: "1", count: 900 },
    { reason: "2-3", count: 60 },
    { reason: "25+", count: 1 },
  ],
};

const context = (mode: StatsContext["mode"]): StatsContext => ({
  mode,
  startedAt: performance.now(),
  configVersion: 1,
  draining: false,
  records: new Map(),
  routes: new Map(),
  lastCheck: () => undefined,
  lastReload: undefined,
  isRuntime: () => false,
});

/** What a browser without scripts shows. */
const renderPage = (stats: Stats): string =>
  renderShell({
    assets: { script: "/s", style: "/c", icon: "/i" },
    access: { read: "open", write: "off" },
    stats,
  });

describe("/stats in the packet modes", () => {
  test("what is not counted is absent, and the page says so", () => {
    const stats = buildStats({ ...native(packet), counters: { bytesTx: 5, bytesRx: 0 } }, context("dsr"));
    expect(stats).not.toHaveProperty("total_connections");
    expect(stats).not.toHaveProperty("current_connections");
    expect(stats.total_bytes_tx).toBe(5);
    expect(renderPage(stats)).toContain("connections are not counted");
  });

  test("tells engine, guard, flows and packets beside the fields of every mode", () => {
    expect(buildStats(native(packet), context("passthrough"))).toMatchObject({
      total_connections: 0,
      engine: "af_packet",
      guard: "nft",
      interfaces: ["front", "<back>"],
      flows: { current: 3, capacity: 1_048_576 },
      packets: {
        forwarded: 70_000,
        replied: { tcp_reset: 1 },
        answered: { no_flow: 1 },
        passed: { not_vip: 2 },
        dropped: { bad_checksum: 4 },
        noted: { port_taken_over: 5 },
      },
    });
  });

  test("tells how many NAT ports were looked at to find a free one, fewest first", () => {
    const { packets } = buildStats(native(packet), context("passthrough"));
    expect(Object.entries(packets?.nat_port_probes ?? {})).toEqual([
      ["1", 900],
      ["2-3", 60],
      ["25+", 1],
    ]);
  });

  test("tells which engines were refused and why, and how often a worker began anew", () => {
    expect(buildStats(native(packet), context("passthrough"))).toMatchObject({
      engines_refused: packet.refused,
      worker_panics: 2,
    });
  });

  test("tells what the guard kept from the kernel where the guard counts it, and no zeros where it does not", () => {
    const guardDrops = { toVip: 60_000, fromServer: 9_000, icmpErrors: 0 };
    expect(buildStats(native({ ...packet, guardDrops }), context("passthrough")).packets).toMatchObject({
      guard: { to_vip: 60_000, from_server: 9_000, icmp_errors: 0 },
    });
    expect(buildStats(native(packet), context("passthrough")).packets).not.toHaveProperty("guard");
  });

  test("says in dsr mode, and only there, that answers are not seen", () => {
    expect(buildStats(native(packet), context("dsr")).return_path_visible).toBe(false);
    expect(buildStats(native(packet), context("passthrough"))).not.toHaveProperty("return_path_visible");
  });

  test("has none of it in proxy mode", () => {
    const stats = buildStats(native(), context("proxy"));
    for (const field of [
      "engine",
      "engines_refused",
      "worker_panics",
      "guard",
      "interfaces",
      "flows",
      "packets",
    ]) {
      expect(stats).not.toHaveProperty(field);
    }
  });
});

describe("the page in the packet modes", () => {
  test("shows the engine's line and every reason, escaped", () => {
    const page = renderPage(buildStats(native(packet), context("dsr")));
    expect(page).toContain("af_packet on front, &lt;back&gt; · guard nft · 3 of 1,048,576 flows");
    expect(page).toContain("70,000 packets forwarded");
    for (const item of ["tcp_reset: 1", "not_vip: 2", "bad_checksum: 4", "port_taken_over: 5"]) {
      expect(page).toContain(`<li>${item}</li>`);
    }
    expect(page).toContain("not visible here");
    expect(page).toContain("engine tc was not taken: front has no tcx; use a newer kernel");
    expect(page).not.toContain("kept from the kernel");
  });

  test("shows what the guard kept from the kernel", () => {
    const guardDrops = { toVip: 60_000, fromServer: 9_000, icmpErrors: 0 };
    const page = renderPage(buildStats(native({ ...packet, guardDrops }), context("dsr")));
    expect(page).toContain("<h2>Packets kept from the kernel</h2><ul><li>to_vip: 60,000</li>");
  });

  test("shows none of it in proxy mode", () => {
    const page = renderPage(buildStats(native(), context("proxy")));
    expect(page).not.toMatch(/guard|flows|Packets/);
  });
});
