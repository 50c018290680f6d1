import { createServer } from "node:net";
import { afterEach, expect, test, vi } from "vitest";
import { checkConfig } from "../../../../ts/config/check.ts";
import type { CheckTarget } from "../../../../ts/control/health/monitor.ts";
import type { Outcome } from "../../../../ts/control/health/outcome.ts";
import { serverProbe, type VipCheck, vipCheck } from "../../../../ts/control/health/vip-check.ts";
import type { NativeProbe, NativeProbeReport } from "../../../../ts/native/index.ts";

function checkOf(
  settings: {
    method?: "l2" | "rewrite";
    check?: "vip" | "address";
    own?: "l2" | "rewrite";
    mode?: "dsr" | "passthrough";
  },
  frontends: Record<string, { listen_addr: string; backend: string; protocol?: "udp" }> = {
    web: { listen_addr: "192.0.2.1:80", backend: "pool" },
  },
): VipCheck | undefined {
  const result = checkConfig({
    mode: settings.mode ?? "dsr",
    dsr: { method: settings.method ?? "l2" },
    frontends,
    backends: {
      pool: {
        servers: { s1: { addr: "198.51.100.1:80" } },
        ...(settings.check && { check: settings.check }),
        ...(settings.own && { dsr_method: settings.own }),
      },
    },
  });
  if (!result.ok) throw new Error(JSON.stringify(result.problems));
  return vipCheck(result.config, "pool");
}

test("with l2 servers are asked for the addresses of TCP frontends, with rewrite where it is asked for", () => {
  const vips = ["192.0.2.1:80"];
  expect(checkOf({})).toEqual({ vips, method: "l2", required: false });
  expect(checkOf({ check: "vip" })).toEqual({ vips, method: "l2", required: true });
  expect(checkOf({ method: "rewrite", check: "vip" })).toEqual({ vips, method: "rewrite", required: true });
  expect(checkOf({ method: "rewrite", own: "l2" })?.method).toBe("l2");
  for (const none of [
    checkOf({ check: "address" }),
    checkOf({ method: "rewrite" }),
    checkOf({ mode: "passthrough" }),
    checkOf({}, { web: { listen_addr: ":80", backend: "pool" } }),
    checkOf({}, { dns: { listen_addr: "192.0.2.1:80", backend: "pool", protocol: "udp" } }),
  ]) {
    expect(none).toBeUndefined();
  }
  const several = checkOf(
    {},
    {
      web: { listen_addr: "192.0.2.1:80", backend: "pool" },
      more: { listen_addr: "192.0.2.2:80", backend: "pool" },
      dns: { listen_addr: "192.0.2.3:80", backend: "pool", protocol: "udp" },
    },
  );
  expect(several?.vips).toEqual(["192.0.2.1:80", "192.0.2.2:80"]);
});

const VIP = "192.0.2.1:80";
const target = (vips: Partial<VipCheck> = {}, port = 80): CheckTarget => ({
  key: "app/one",
  host: "127.0.0.1",
  port,
  settings: { intervalMs: 1000, fastIntervalMs: 100, timeoutMs: 700, rise: 1, fall: 1 },
  vips: { vips: [VIP], method: "l2", required: false, ...vips },
});

/** Answers every probe with `report`. */
function answering(report: Partial<NativeProbeReport>) {
  const asked: NativeProbe[] = [];
  const told: string[] = [];
  const probe = serverProbe(
    (probe, done) => {
      asked.push(probe);
      const timer = setTimeout(() =>
        done({
          id: 1,
          outcome: "answered",
          vip: "",
          detail: "",
          latencyMs: 3,
          ...report,
        } as NativeProbeReport),
      );
      return () => clearTimeout(timer);
    },
    (message) => told.push(message),
  );
  return { asked, told, check: (it: CheckTarget) => new Promise<Outcome>((done) => probe(it, done)) };
}

afterEach(() => vi.useRealTimers());

test.each([
  [{ outcome: "answered" }, { kind: "ok", cause: `answers for VIP ${VIP}`, durationMs: 3 }],
  [
    { outcome: "refused", vip: VIP },
    { kind: "failed", cause: `refuses connections to VIP ${VIP}`, durationMs: 3 },
  ],
  [
    { outcome: "silent", vip: VIP },
    {
      kind: "failed",
      cause: `the server does not answer for VIP ${VIP}: is it up, and the address on its loopback? convey dsr-server ${VIP} --method l2 --server 127.0.0.1`,
      durationMs: 3,
      silent: true,
    },
  ],
  [
    { outcome: "unresolved", detail: "nobody on eth0 answers for 127.0.0.1" },
    {
      kind: "failed",
      cause: "the server cannot be reached: nobody on eth0 answers for 127.0.0.1",
      durationMs: 3,
      silent: true,
    },
  ],
  [
    { outcome: "notsent", detail: "No buffer space available" },
    { kind: "local", cause: "this machine cannot send: No buffer space available" },
  ],
] as [Partial<NativeProbeReport>, Outcome][])("%o is told in words", async (report, outcome) => {
  const { asked, check } = answering(report);
  expect(await check(target())).toEqual(outcome);
  expect(asked).toEqual([{ server: "127.0.0.1:80", vips: [VIP], method: "l2", timeoutMs: 700 }]);
});

test("with rewrite an answer from the server's own address says how it is to be prepared", async () => {
  const { check } = answering({ outcome: "elsewhere", vip: VIP, detail: "127.0.0.1:80" });
  expect(await check(target({ method: "rewrite" }))).toMatchObject({
    kind: "failed",
    cause: expect.stringContaining(`answers from 127.0.0.1:80 instead of VIP ${VIP}: was it prepared`),
  });
});

test("where it cannot be asked a connect stands in, which is told once; where it is demanded none does", async () => {
  const { told, check } = answering({ outcome: "unavailable", detail: "eth0 has no address of its own" });
  const server = createServer((socket) => socket.end()).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as { port: number };
  try {
    expect(await check(target({}, port))).toEqual({ kind: "ok" });
    expect(await check(target({}, port))).toEqual({ kind: "ok" });
  } finally {
    server.close();
  }
  expect(told).toEqual([
    `servers of backend app are checked at their own addresses, because eth0 has no address of its own; one that does not answer for ${VIP} is not noticed`,
  ]);
  expect(await check(target({ required: true }))).toEqual({
    kind: "local",
    cause: `servers cannot be asked for VIP ${VIP}: eth0 has no address of its own`,
  });
});
