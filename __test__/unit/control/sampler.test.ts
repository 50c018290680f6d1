/** What the sampler keeps and what readers get of it, on a clock and counters of the test's own. */
import { describe, expect, test } from "vitest";
import type { DeltaFrame, Frame, FullFrame } from "../../../ts/control/frame.ts";
import { LiveFeed } from "../../../ts/control/live-feed.ts";
import { Sampler } from "../../../ts/control/sampler.ts";
import type { ServerRecord } from "../../../ts/control/states.ts";
import type { StatsContext } from "../../../ts/control/stats.ts";
import type { NativeStats } from "../../../ts/native/index.ts";

/** A balancer with `n` servers in one backend, whose counters the test moves. */
function world(n: number, mode: StatsContext["mode"] = "proxy") {
  const records = new Map<string, ServerRecord>();
  const checks = new Map<string, { at: Date; ok: boolean; durationMs: number; cause: string }>();
  let version = 1;
  let total = 0;
  for (let i = 0; i < n; i++) {
    const [key, addr] = [`pool/s${i}`, `10.0.${i >> 8}.${i & 255}:80`];
    records.set(key, {
      key,
      backend: "pool",
      server: `s${i}`,
      addr,
      configuredWeight: 1,
      weightOverride: undefined,
      draining: false,
      up: true,
    } as ServerRecord);
  }
  const counters = () => ({
    totalConnections: total,
    currentConnections: 3,
    bytesTx: total * 100,
    bytesRx: total * 200,
  });
  const read = (): { native: NativeStats; context: StatsContext } => ({
    native: {
      version,
      lostLogLines: 0,
      counters: counters(),
      reasons: [],
      frontends: [{ name: "web", address: "10.0.0.1:80", counters: counters(), reasons: [] }],
      backends: [
        {
          name: "pool",
          balance: "round_robin",
          counters: counters(),
          servers: [...records.values()].map(({ server, addr, up, draining }) => ({
            name: server,
            addr,
            weight: 1,
            effectiveWeight: 1,
            backup: false,
            up,
            draining,
            counters: counters(),
            reasons: [],
          })),
        },
      ],
    },
    context: {
      mode,
      startedAt: 0,
      configVersion: version,
      draining: false,
      records,
      routes: new Map([["web", ["pool"]]]),
      lastCheck: (key) => checks.get(key),
      lastReload: undefined,
      isRuntime: () => false,
    },
  });
  return {
    records,
    read,
    events: async function* () {},
    serve: (connections: number) => {
      total += connections;
    },
    check: (key: string, ok: boolean) =>
      checks.set(key, { at: new Date(), ok, durationMs: 0.5, cause: ok ? "connected" : "refused" }),
    reload: () => {
      version += 1;
    },
  };
}

function sampled(it: ReturnType<typeof world>) {
  let now = 0;
  const sampler = new Sampler(
    it,
    () => undefined,
    () => now,
  );
  sampler.start();
  return {
    sampler,
    at: (ms: number) => {
      now = ms;
      sampler.sample();
      return sampler.full() as FullFrame;
    },
  };
}

describe("the sampler", () => {
  test("keeps rates by the second, and fills in those that a blocked loop has missed", () => {
    const it = world(1);
    const { sampler, at } = sampled(it);
    it.serve(10);
    at(1000);
    it.serve(20);
    expect(at(5003).history.connections).toEqual([10, 5, 5, 5, 5]);
    it.serve(6);
    expect(at(6000).history.connections.at(-1)).toBe(6);
    sampler.close();
  });

  test("keeps 15 minutes, and not a value more", () => {
    const it = world(1);
    const { sampler, at } = sampled(it);
    for (let second = 1; second <= 1000; second++) {
      it.serve(1);
      at(second * 1000);
    }
    const { history } = sampler.full() as FullFrame;
    expect([history.connections.length, history.backends[0]?.open.length]).toEqual([900, 900]);
    expect(sampler.history("pool/s0")?.connections.length).toBe(60);
    sampler.close();
  });

  test("remembers the state of a server with reason and time, and its latest checks", () => {
    const it = world(1);
    const { sampler, at } = sampled(it);
    it.check("pool/s0", true);
    at(1000);
    it.check("pool/s0", false);
    const record = it.records.get("pool/s0") as ServerRecord;
    record.up = false;
    const [server] = at(2000).backends[0]?.servers ?? [];
    expect(server).toMatchObject({
      state: "down",
      since: 2,
      strip: "+-",
      check: { ok: false, answer: "refused" },
    });
    expect(sampler.history("pool/s0")?.changes.map(({ at, state }) => [at, state])).toEqual([
      [0, "up"],
      [2, "down"],
    ]);
    sampler.close();
  });

  test("what answers bring is unknown in dsr mode, never 0", () => {
    const it = world(1, "dsr");
    const { sampler, at } = sampled(it);
    it.serve(5);
    const { backends, history } = at(1000);
    expect(backends[0]?.servers[0]).toMatchObject({ rx: null, rates: { rx: null, tx: 500 } });
    expect(history.rx).toEqual([null]);
    sampler.close();
  });
});

/** Frames that a reader has got so far. */
function reader(feed: LiveFeed) {
  const stream = feed.open();
  if (stream === undefined) return undefined;
  const frames: Frame[] = [];
  const source = stream.getReader();
  return {
    frames,
    next: async () => {
      const { value, done } = await source.read();
      if (done) return undefined;
      const data = /^data: (.*)$/m.exec(new TextDecoder().decode(value))?.[1] as string;
      const frame = JSON.parse(data) as Frame;
      frames.push(frame);
      return frame;
    },
    cancel: () => source.cancel(),
  };
}

describe("the live feed", () => {
  test("tells everything first, then what has changed, and everything again after a change of configuration", async () => {
    const it = world(3);
    const feed = new LiveFeed(it);
    feed.start();
    const one = reader(feed);
    expect(await one?.next()).toMatchObject({ type: "full", backends: [{ servers: [{}, {}, {}] }] });
    (it.records.get("pool/s1") as ServerRecord).draining = true;
    const delta = (await one?.next()) as DeltaFrame;
    expect([delta.type, delta.servers]).toMatchObject(["delta", [[1, { state: "draining" }]]]);
    it.reload();
    expect((await one?.next())?.type).toBe("full");
    feed.close();
    expect(await one?.next()).toBeUndefined();
  });

  test("a reader that does not keep up goes on with a full picture", async () => {
    const feed = new LiveFeed(world(1));
    feed.start();
    const slow = reader(feed);
    await new Promise((resolve) => setTimeout(resolve, 2500));
    expect((await slow?.next())?.type).toBe("full");
    expect((await slow?.next())?.type).toBe("full");
    expect((await slow?.next())?.type).toBe("delta");
    feed.close();
  });

  test("readers are bounded; one that goes makes room", async () => {
    const feed = new LiveFeed(world(1));
    feed.start();
    const readers = Array.from({ length: 33 }, () => reader(feed));
    expect(readers.filter((one) => one !== undefined).length).toBe(32);
    await readers[0]?.cancel();
    expect(reader(feed)).toBeDefined();
    feed.close();
    expect(reader(feed)).toBeUndefined();
  });
});

test("5,000 servers, all of them busy: a frame is made within 20 ms of CPU, and what is kept is bounded", () => {
  const it = world(5000);
  let now = 0;
  let frame = 0;
  let delta = "";
  const sampler = new Sampler(
    it,
    (sample) => {
      if (sample.changes !== undefined) delta = JSON.stringify({ type: "delta", ...sample });
    },
    () => now,
  );
  globalThis.gc?.();
  const before = process.memoryUsage();
  sampler.start();
  const costs: number[] = [];
  const { native, context } = it.read();
  for (let second = 1; second <= 30; second++) {
    it.serve(7);
    now = second * 1000;
    const next = freshCounters(native, second);
    it.read = () => ({ native: next, context });
    const begun = process.cpuUsage();
    sampler.sample();
    const { user, system } = process.cpuUsage(begun);
    costs.push((user + system) / 1000);
  }
  const begun = process.cpuUsage();
  frame = JSON.stringify(sampler.full()).length;
  const full = process.cpuUsage(begun).user / 1000;
  const after = process.memoryUsage();
  costs.sort((a, b) => a - b);
  const median = costs[costs.length >> 1] as number;
  const kept = (after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers) / 2 ** 20;
  console.log(
    `5,000 servers: a delta of ${delta.length >> 10} KiB in ${median.toFixed(1)} ms, ` +
      `a full picture of ${frame >> 10} KiB in ${full.toFixed(1)} ms, at most ${kept.toFixed(1)} MiB kept`,
  );
  expect(median).toBeLessThan(20);
  sampler.close();
});

function freshCounters(native: NativeStats, second: number): NativeStats {
  return {
    ...native,
    backends: native.backends.map((backend) => ({
      ...backend,
      servers: backend.servers.map((server, i) => ({
        ...server,
        counters: {
          totalConnections: second * (i + 3),
          currentConnections: (second + i) % 50,
          bytesTx: second * (i + 1) * 1000,
          bytesRx: second * (i + 1) * 9000,
        },
      })),
    })),
  };
}
