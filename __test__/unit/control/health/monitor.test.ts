import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import {
  type CheckSettings,
  type CheckTarget,
  HealthMonitor,
} from "../../../../ts/control/health/monitor.ts";
import type { Outcome } from "../../../../ts/control/health/outcome.ts";

const SETTINGS: CheckSettings = {
  intervalMs: 5000,
  fastIntervalMs: 1000,
  timeoutMs: 2000,
  rise: 2,
  fall: 3,
};
const REFUSED: Outcome = { kind: "failed", cause: "connection refused" };
const OK: Outcome = { kind: "ok" };

const target = (name: string, settings: Partial<CheckSettings> = {}): CheckTarget => ({
  key: `pool/${name}`,
  host: "192.0.2.1",
  port: 80,
  settings: { ...SETTINGS, ...settings },
});

/** A network in which every connect ends as `outcome` says, after a turn of the loop; "never" hangs. */
class Network {
  outcome: Outcome | "never" = OK;
  /** Hosts that do not behave as `outcome` says. */
  others = new Map<string, Outcome | "never">();
  starts: number[] = [];
  open = 0;
  mostOpen = 0;
  readonly probe = ({ host }: CheckTarget, done: (outcome: Outcome) => void): (() => void) => {
    this.starts.push(performance.now());
    this.open += 1;
    this.mostOpen = Math.max(this.mostOpen, this.open);
    let over = false;
    const end = (): boolean => {
      if (over) return false;
      over = true;
      this.open -= 1;
      return true;
    };
    const outcome = this.others.get(host) ?? this.outcome;
    if (outcome !== "never") setTimeout(() => end() && done(outcome), 1);
    return end;
  };
}

function monitorOn(network: Network, maxInFlight?: number) {
  const transitions: string[] = [];
  const suspended: string[] = [];
  const monitor = new HealthMonitor(
    {
      onTransition: (key, up, cause) => transitions.push(`${key} ${up ? "up" : "down"}: ${cause}`),
      onSuspended: (cause) => suspended.push(cause),
    },
    // With faked timers nothing seems to keep the process alive, for whose end connects are given up.
    { probe: network.probe, keepAlive: true, ...(maxInFlight === undefined ? {} : { maxInFlight }) },
  );
  return { monitor, transitions, suspended };
}

describe("with time in the test's hand", () => {
  let network: Network;
  beforeEach(() => {
    vi.useFakeTimers({
      toFake: [
        "setTimeout",
        "clearTimeout",
        "setImmediate",
        "clearImmediate",
        "setInterval",
        "performance",
        "Date",
      ],
    });
    network = new Network();
  });
  afterEach(() => vi.useRealTimers());

  test("the first check comes at once", async () => {
    const { monitor } = monitorOn(network);
    monitor.setTargets([target("s1")]);
    await vi.advanceTimersByTimeAsync(50);
    expect(monitor.lastCheck("pool/s1")).toMatchObject({ ok: true, cause: "connected" });
    monitor.close();
  });

  test("a server goes down at the fall-th failure, checked at the fast interval meanwhile, and says why", async () => {
    network.outcome = REFUSED;
    const { monitor, transitions } = monitorOn(network);
    monitor.setTargets([target("s1")]);
    await vi.advanceTimersByTimeAsync(50);
    expect(transitions).toEqual([]);
    expect(monitor.isUp("pool/s1")).toBe(true);
    await vi.advanceTimersByTimeAsync(2500);
    expect(transitions).toEqual(["pool/s1 down: 3 checks in a row failed, last: connection refused"]);
    expect(monitor.isUp("pool/s1")).toBe(false);
    monitor.close();
  });

  test("it comes back after rise successes, the second of which comes at the fast interval", async () => {
    network.outcome = REFUSED;
    const { monitor, transitions } = monitorOn(network);
    monitor.setTargets([target("s1")]);
    await vi.advanceTimersByTimeAsync(3000);
    transitions.length = 0;
    network.outcome = OK;
    // A settled server is checked at its interval of 5 s (and a tenth), then once more after 1 s.
    await vi.advanceTimersByTimeAsync(5500 + 1200);
    expect(transitions).toEqual(["pool/s1 up: 2 checks in a row succeeded"]);
    monitor.close();
  });

  test("a settled server is checked once an interval, give or take a tenth", async () => {
    const { monitor } = monitorOn(network);
    monitor.setTargets([target("s1", { intervalMs: 1000 })]);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(network.starts.length).toBeGreaterThanOrEqual(55);
    expect(network.starts.length).toBeLessThanOrEqual(66);
    monitor.close();
  });

  test("checks of many servers spread over the interval after the common start", async () => {
    const { monitor } = monitorOn(network, 1000);
    monitor.setTargets(Array.from({ length: 200 }, (_, i) => target(`s${i}`)));
    await vi.advanceTimersByTimeAsync(100);
    expect(network.starts.length).toBe(200);
    await vi.advanceTimersByTimeAsync(20_000);
    network.starts.length = 0;
    await vi.advanceTimersByTimeAsync(5000);
    const slots = new Map<number, number>();
    for (const at of network.starts)
      slots.set(Math.floor(at / 500), (slots.get(Math.floor(at / 500)) ?? 0) + 1);
    expect(Math.max(...slots.values())).toBeLessThan(60);
    monitor.close();
  });

  test("a connect that hangs fails at the timeout and is given up", async () => {
    network.outcome = "never";
    const { monitor, transitions } = monitorOn(network);
    monitor.setTargets([target("s1", { fall: 1 })]);
    await vi.advanceTimersByTimeAsync(1900);
    expect(transitions).toEqual([]);
    await vi.advanceTimersByTimeAsync(200);
    expect(transitions).toEqual(["pool/s1 down: check failed: no answer within 2000 ms"]);
    expect(network.open).toBe(0);
    monitor.close();
  });

  test("no more connects than allowed are open at once, and every server still has its turn", async () => {
    network.outcome = "never";
    const { monitor } = monitorOn(network, 10);
    monitor.setTargets(Array.from({ length: 100 }, (_, i) => target(`s${i}`, { timeoutMs: 100 })));
    await vi.advanceTimersByTimeAsync(1500);
    expect(network.mostOpen).toBe(10);
    for (let i = 0; i < 100; i++) expect(monitor.lastCheck(`pool/s${i}`)).toBeDefined();
    monitor.close();
    expect(network.open).toBe(0);
  });

  test("servers that wait for their turn have it when those ahead of them are removed", async () => {
    network.outcome = "never";
    const { monitor } = monitorOn(network, 1);
    monitor.setTargets([target("s1"), target("s2")]);
    await vi.advanceTimersByTimeAsync(50);
    network.outcome = OK;
    monitor.setTargets([target("s2")]);
    await vi.advanceTimersByTimeAsync(50);
    expect(monitor.lastCheck("pool/s2")).toMatchObject({ ok: true });
    monitor.close();
  });

  test("what is wrong on this machine speaks against no server, is reported once, and checks go on", async () => {
    network.outcome = { kind: "local", cause: "no file descriptors left" };
    const { monitor, transitions, suspended } = monitorOn(network);
    monitor.setTargets([target("s1", { fall: 1, intervalMs: 1000 })]);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(transitions).toEqual([]);
    expect(suspended).toEqual(["no file descriptors left"]);
    expect(network.starts.length).toBeGreaterThan(5);
    network.outcome = OK;
    await vi.advanceTimersByTimeAsync(2000);
    network.outcome = { kind: "local", cause: "again" };
    await vi.advanceTimersByTimeAsync(2000);
    expect(suspended).toEqual(["no file descriptors left", "again"]);
    monitor.close();
  });

  test("a probe of the frontend's address ends by itself; one that is lost speaks against no server", async () => {
    network.outcome = "never";
    const { monitor, transitions, suspended } = monitorOn(network);
    const vips = { vips: ["192.0.2.1:80"], method: "l2", required: false } as const;
    monitor.setTargets([{ ...target("s1", { timeoutMs: 1000, fall: 1 }), vips }]);
    await vi.advanceTimersByTimeAsync(1200);
    expect([network.open, suspended]).toEqual([1, []]);
    await vi.advanceTimersByTimeAsync(1000);
    expect([suspended, transitions]).toEqual([["what sends and hears probes does not answer"], []]);
    network.outcome = { kind: "failed", cause: "silence", durationMs: 999, silent: true };
    await vi.advanceTimersByTimeAsync(6000);
    expect(monitor.lastCheck("pool/s1")).toMatchObject({ ok: false, cause: "silence", durationMs: 999 });
    expect(transitions).toEqual(["pool/s1 down: check failed: silence"]);
    monitor.close();
  });

  test("a check that cannot be made is reported once, however often those of healthy servers can", async () => {
    network.others.set("192.0.2.99", { kind: "local", cause: "not permitted" });
    const { monitor, transitions, suspended } = monitorOn(network);
    const forbidden = ["a", "b"].map((name) => ({
      ...target(name, { intervalMs: 1000 }),
      host: "192.0.2.99",
    }));
    monitor.setTargets([...forbidden, target("healthy", { intervalMs: 1000 })]);
    await vi.advanceTimersByTimeAsync(30_000);
    expect([suspended, transitions]).toEqual([["not permitted"], []]);
    // One of both can be made again: the reason still holds for the other.
    monitor.setTargets([...forbidden.slice(1), target("healthy")]);
    await vi.advanceTimersByTimeAsync(5000);
    expect(suspended.length).toBe(1);
    network.others.delete("192.0.2.99");
    await vi.advanceTimersByTimeAsync(5000);
    network.others.set("192.0.2.99", { kind: "local", cause: "not permitted" });
    await vi.advanceTimersByTimeAsync(5000);
    expect(suspended.length).toBe(2);
    monitor.close();
  });

  test("servers that do not answer hold up no other: a dead neighbour is noticed within an interval", async () => {
    network.others.set("192.0.2.1", "never");
    const { monitor, transitions } = monitorOn(network, 2048);
    const neighbour = { ...target("neighbour", { intervalMs: 1000, fall: 1 }), host: "192.0.2.2" };
    const holes = Array.from({ length: 3000 }, (_, i) => target(`hole${i}`, { intervalMs: 1000 }));
    monitor.setTargets([...holes, neighbour]);
    await vi.advanceTimersByTimeAsync(20_000);
    expect(network.mostOpen).toBeLessThanOrEqual(2048);
    for (const { key } of holes) expect(monitor.isUp(key), key).toBe(false);
    transitions.length = 0;
    network.others.set("192.0.2.2", REFUSED);
    await vi.advanceTimersByTimeAsync(1150);
    expect(transitions).toEqual(["pool/neighbour down: check failed: connection refused"]);
    monitor.close();
    expect(network.open).toBe(0);
  });

  test("when thousands fall silent at once, a server that dies then is noticed within two timeouts more", async () => {
    const { monitor, transitions } = monitorOn(network, 2048);
    const neighbour = { ...target("neighbour", { intervalMs: 1000, fall: 1 }), host: "192.0.2.2" };
    monitor.setTargets([
      neighbour,
      ...Array.from({ length: 3000 }, (_, i) => target(`hole${i}`, { intervalMs: 1000 })),
    ]);
    await vi.advanceTimersByTimeAsync(10_000);
    network.others.set("192.0.2.1", "never").set("192.0.2.2", REFUSED);
    await vi.advanceTimersByTimeAsync(1100 + 2 * 2000);
    expect(transitions).toContain("pool/neighbour down: check failed: connection refused");
    monitor.close();
  });

  test("of a burst of failures in the data plane one counts, and a check follows at once", async () => {
    const { monitor, transitions } = monitorOn(network);
    monitor.setTargets([target("s1")]);
    await vi.advanceTimersByTimeAsync(50);
    network.starts.length = 0;
    for (let i = 0; i < 100; i++) monitor.passiveFailure("pool/s1", "refused");
    expect(transitions).toEqual([]);
    expect(monitor.lastCheck("pool/s1")).toMatchObject({ ok: false, cause: "refused" });
    await vi.advanceTimersByTimeAsync(50);
    expect(network.starts.length).toBe(1);
    expect(monitor.lastCheck("pool/s1")).toMatchObject({ ok: true });
    monitor.close();
  });

  test("failures in the data plane and failed checks add up to a server that is down", async () => {
    const { monitor, transitions } = monitorOn(network);
    monitor.setTargets([target("s1", { fall: 2 })]);
    await vi.advanceTimersByTimeAsync(50);
    network.outcome = REFUSED;
    monitor.passiveFailure("pool/s1", "data plane: refused");
    await vi.advanceTimersByTimeAsync(50);
    expect(transitions).toEqual(["pool/s1 down: 2 checks in a row failed, last: connection refused"]);
    monitor.passiveFailure("pool/s1", "late");
    expect(monitor.lastCheck("pool/s1")).toMatchObject({ cause: "connection refused" });
    monitor.close();
  });

  test("new settings keep the state; a new address starts anew", async () => {
    network.outcome = REFUSED;
    const { monitor, transitions } = monitorOn(network);
    monitor.setTargets([target("s1", { fall: 1 })]);
    await vi.advanceTimersByTimeAsync(50);
    monitor.setTargets([target("s1", { fall: 2, intervalMs: 10_000 })]);
    expect(monitor.isUp("pool/s1")).toBe(false);
    monitor.setTargets([{ ...target("s1"), host: "192.0.2.2" }]);
    expect(monitor.isUp("pool/s1")).toBe(true);
    expect(monitor.lastCheck("pool/s1")).toBeUndefined();
    expect(transitions.length).toBe(1);
    monitor.close();
  });

  test("a shorter interval takes effect now, not after the long one has passed", async () => {
    const { monitor } = monitorOn(network);
    monitor.setTargets([target("s1", { intervalMs: 3_600_000 })]);
    await vi.advanceTimersByTimeAsync(50);
    monitor.setTargets([target("s1", { intervalMs: 1000 })]);
    await vi.advanceTimersByTimeAsync(1200);
    expect(network.starts.length).toBe(2);
    monitor.close();
  });

  test("a server that is down is checked at an interval of its own", async () => {
    const { monitor } = monitorOn(network);
    network.outcome = REFUSED;
    monitor.setTargets([
      target("s1", { intervalMs: 100, downIntervalMs: 20_000, fastIntervalMs: 100, fall: 1 }),
    ]);
    await vi.advanceTimersByTimeAsync(15_000);
    expect(network.starts.length).toBeLessThan(3);
    network.outcome = OK;
    await vi.advanceTimersByTimeAsync(25_000);
    expect(monitor.isUp("pool/s1")).toBe(true);
    const before = network.starts.length;
    await vi.advanceTimersByTimeAsync(2000);
    expect(network.starts.length - before).toBeGreaterThan(14);
    monitor.close();
  });

  test("what a check makes of its time being over counts, with what was heard", async () => {
    const late = vi.fn(
      (timeoutMs: number): Outcome => ({ kind: "failed", cause: `mute for ${timeoutMs} ms`, answer: "hm" }),
    );
    const given = vi.fn();
    const probe = () => Object.assign(() => given(), { whenLate: late });
    const checked: unknown[] = [];
    const monitor = new HealthMonitor(
      {
        onTransition: () => undefined,
        onSuspended: () => undefined,
        onChecked: (_, result) => checked.push(result),
      },
      { probe, keepAlive: true },
    );
    monitor.setTargets([target("s1")]);
    await vi.advanceTimersByTimeAsync(2100);
    expect(checked).toMatchObject([{ ok: false, cause: "mute for 2000 ms", answer: "hm" }]);
    expect([late, given].map((it) => it.mock.calls.length)).toEqual([1, 1]);
    monitor.close();
  });

  test("a server that is to be asked something else is asked at once, and its state stays", async () => {
    network.outcome = REFUSED;
    const { monitor } = monitorOn(network);
    monitor.setTargets([target("s1", { intervalMs: 3_600_000, fall: 1 })]);
    await vi.advanceTimersByTimeAsync(100);
    expect(monitor.isUp("pool/s1")).toBe(false);
    const before = network.starts.length;
    const ask = { kind: "exchange", tls: undefined, send: Buffer.alloc(0), expect: Buffer.alloc(0) } as const;
    const settings = { ...SETTINGS, intervalMs: 3_600_000 };
    monitor.setTargets([{ ...target("s1"), settings, ask }]);
    await vi.advanceTimersByTimeAsync(100);
    expect(network.starts.length - before).toBe(1);
    expect(monitor.isUp("pool/s1")).toBe(false);
    // The same again is nothing new.
    monitor.setTargets([{ ...target("s1"), settings, ask: { ...ask, send: Buffer.alloc(0) } }]);
    await vi.advanceTimersByTimeAsync(100);
    expect(network.starts.length - before).toBe(1);
    monitor.close();
  });

  test("after close nothing is checked, open or reported", async () => {
    network.outcome = "never";
    const { monitor, transitions } = monitorOn(network);
    monitor.setTargets([target("s1", { fall: 1 })]);
    await vi.advanceTimersByTimeAsync(50);
    monitor.close();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(network.open).toBe(0);
    expect(network.starts.length).toBe(1);
    expect(transitions).toEqual([]);
  });
});

/** Holds the event loop, as a long computation in the program around us does. */
function block(ms: number): void {
  const until = performance.now() + ms;
  while (performance.now() < until);
}

const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

test("a timeout that a blocked event loop noticed late is discarded and the server checked again", async () => {
  const network = new Network();
  network.outcome = "never";
  const { monitor, transitions } = monitorOn(network);
  monitor.setTargets([target("s1", { timeoutMs: 200, fall: 1 })]);
  await pause(60);
  block(600);
  network.outcome = OK;
  await pause(150);
  expect(transitions).toEqual([]);
  expect(monitor.lastCheck("pool/s1")).toMatchObject({ ok: true });
  monitor.close();
});

test("on a loop that is always late a dead server is still found out", async () => {
  const network = new Network();
  network.outcome = "never";
  const { monitor, transitions } = monitorOn(network);
  monitor.setTargets([target("s1", { timeoutMs: 50, fall: 1, fastIntervalMs: 50 })]);
  for (let i = 0; i < 30 && transitions.length === 0; i++) {
    block(150);
    await pause(1);
  }
  expect(transitions).toEqual(["pool/s1 down: check failed: no answer within 50 ms"]);
  monitor.close();
});
