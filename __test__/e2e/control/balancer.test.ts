import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, test, vi } from "vitest";
import {
  type Balancer,
  type BalancerEvent,
  type BalancerOptions,
  type ConfigInput,
  createBalancer,
} from "../../../ts/index.ts";
import {
  blackHole,
  Client,
  type Closable,
  closedPort,
  echoServer,
  httpServer,
  pause,
  poolConfig,
  type TestServer,
} from "../../support/control.ts";

const toClose: Closable[] = [];

afterEach(async () => {
  for (const it of toClose.splice(0).reverse()) await it.close();
});

async function balance(config: ConfigInput, options?: BalancerOptions): Promise<Balancer> {
  const lb = await createBalancer(config, options);
  toClose.push(lb);
  return lb;
}

async function echo(name: string, port?: number): Promise<TestServer> {
  const server = await echoServer(name, port);
  toClose.push(server);
  return server;
}

/** Collects events in the background. */
function collect(lb: Balancer): BalancerEvent[] {
  const seen: BalancerEvent[] = [];
  void (async () => {
    for await (const event of lb.events()) seen.push(event);
  })();
  return seen;
}

/** Who answers each of `n` connections, opened one after another, counted. */
async function answers(lb: Balancer, n: number): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (let i = 0; i < n; i++) {
    const client = await Client.open(lb.address("web"));
    const name = client.greeting || "nobody";
    counts[name] = (counts[name] ?? 0) + 1;
    client.close();
  }
  return counts;
}

const server = (lb: Balancer, name: string) => {
  const found = lb.stats().backends.pool?.server_details[name];
  if (found === undefined) throw new Error(`no server ${name} in the stats`);
  return found;
};

describe("distribution", () => {
  test("weighted round robin is exact for real connections", async () => {
    const [a, b] = [await echo("a"), await echo("b")];
    const lb = await balance(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }));
    expect(await answers(lb, 30)).toEqual({ a: 15, b: 15 });
    await lb.update(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr, weight: 2 } }));
    expect(await answers(lb, 30)).toEqual({ a: 10, b: 20 });
  });

  test("weight zero gets none, and weights set at run time take effect for the next connection", async () => {
    const [a, b] = [await echo("a"), await echo("b")];
    const lb = await balance(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr, weight: 0 } }));
    expect(await answers(lb, 10)).toEqual({ a: 10 });
    lb.setWeight("pool/b", 3);
    expect(server(lb, "b").weight).toBe(3);
    expect(await answers(lb, 40)).toEqual({ a: 10, b: 30 });
    lb.setWeight("pool/b", null);
    expect(await answers(lb, 10)).toEqual({ a: 10 });
  });

  test("names and weights that do not exist are refused with a code", async () => {
    const a = await echo("a");
    const lb = await balance(poolConfig({ a: { addr: a.addr } }));
    expect(() => lb.setWeight("pool/none", 1)).toThrow(expect.objectContaining({ code: "NOT_FOUND" }));
    expect(() => lb.setWeight("pool/a", 65536)).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
    expect(() => lb.setWeight("pool/a", 1.5)).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
    expect(() => lb.address("none")).toThrow(expect.objectContaining({ code: "NOT_FOUND" }));
    await expect(lb.drain("a")).rejects.toMatchObject({ code: "NOT_FOUND" });
  });
});

describe("health", () => {
  test("a server that dies leaves selection, comes back when it answers again, and both are events with a cause", async () => {
    const [a, b] = [await echo("a"), await echo("b")];
    const lb = await balance(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }));
    const seen = collect(lb);
    await b.close();
    await vi.waitFor(() => expect(server(lb, "b").up).toBe(false), { timeout: 5000 });
    expect(lb.stats().backends.pool?.servers).toEqual({ [a.addr]: true, [b.addr]: false });
    expect(await answers(lb, 10)).toEqual({ a: 10 });
    await echo("b", b.port);
    await vi.waitFor(() => expect(server(lb, "b").up).toBe(true), { timeout: 5000 });
    expect(await answers(lb, 10)).toEqual({ a: 5, b: 5 });
    await vi.waitFor(() =>
      expect(seen.filter((e) => e.type === "server")).toMatchObject([
        { backend: "pool", server: "b", addr: b.addr, state: "down", cause: expect.stringContaining("3 ") },
        { backend: "pool", server: "b", addr: b.addr, state: "up", cause: expect.stringContaining("2 ") },
      ]),
    );
  });

  test("every transition is logged once, with its cause", async () => {
    const lines: string[] = [];
    const write = (_: object, message: string) => lines.push(message);
    const dead = await closedPort();
    const lb = await balance(
      poolConfig({ dead: { addr: `127.0.0.1:${dead}` } }, { pool: { health_check_fall: 1 } }),
      { logger: { debug: write, info: write, warn: write, error: write } },
    );
    await vi.waitFor(() => expect(server(lb, "dead").up).toBe(false));
    await pause(300);
    expect(lines).toEqual([
      "server pool/dead is down: check failed: connection refused (ECONNREFUSED)",
      "backend pool has no server left",
    ]);
  });

  test("a connect that fails in the data plane is answered by another server and counts as a failed check", async () => {
    const [a, b] = [await echo("a"), await echo("b")];
    // An interval so long that no scheduled check can be what finds out.
    const lb = await balance(
      poolConfig(
        { a: { addr: a.addr }, b: { addr: b.addr } },
        { pool: { health_check_interval: 3600, health_check_fall: 1 } },
      ),
    );
    await vi.waitFor(() => expect(server(lb, "b").last_check?.ok).toBe(true));
    const seen = collect(lb);
    await b.close();
    expect(await answers(lb, 2)).toEqual({ a: 2 });
    await vi.waitFor(() => expect(server(lb, "b").up).toBe(false));
    await vi.waitFor(() =>
      expect(seen).toMatchObject([
        { type: "server", server: "b", state: "down", cause: expect.stringContaining("data plane") },
      ]),
    );
  });

  test("a server in a full accept queue times out; the other checks are not held up by it", async () => {
    const a = await echo("a");
    const full = createServer({ pauseOnConnect: true }).listen(0, "127.0.0.1");
    await once(full, "listening");
    const { port } = full.address() as { port: number };
    const hung = await blackHole();
    toClose.push(hung, { close: async () => void full.close() });
    const lb = await balance(
      poolConfig(
        { hung: { addr: hung.addr }, a: { addr: a.addr }, slow: { addr: `127.0.0.1:${port}` } },
        { pool: { health_check_timeout_ms: 200, health_check_fall: 2 } },
      ),
    );
    await vi.waitFor(() => expect(server(lb, "hung").up).toBe(false), { timeout: 5000 });
    expect(server(lb, "hung").last_check?.cause).toBe("no answer within 200 ms");
    expect(server(lb, "a").last_check).toMatchObject({ ok: true });
    expect(server(lb, "a").last_check?.duration_ms).toBeLessThan(200);
    expect(server(lb, "slow").up).toBe(true);
  });

  test("checks leak no file descriptors, whether they succeed, fail or time out", async () => {
    const descriptors = async () => (await readdir("/proc/self/fd")).length;
    const a = await echo("a");
    const hung = await blackHole();
    toClose.push(hung);
    const dead = await closedPort();
    const lb = await balance(
      poolConfig(
        { a: { addr: a.addr }, hung: { addr: hung.addr }, dead: { addr: `127.0.0.1:${dead}` } },
        {
          pool: {
            health_check_timeout_ms: 30,
            health_check_fast_interval_ms: 20,
            health_check_fall: 1000,
            health_check_rise: 1000,
          },
        },
      ),
    );
    await pause(300);
    const before = await descriptors();
    await pause(3000);
    expect(await descriptors()).toBeLessThanOrEqual(before + 4);
    expect(lb.stats().total_connections).toBe(0);
  });

  test("nginx, checked a hundred times, logs no error", async () => {
    const directory = await mkdtemp(join(tmpdir(), "convey-nginx-"));
    const port = await closedPort();
    const log = join(directory, "error.log");
    await writeFile(
      join(directory, "nginx.conf"),
      `daemon off; worker_processes 1; pid ${directory}/pid; error_log ${log} info;
       events {}
       http { access_log ${directory}/access.log; server { listen 127.0.0.1:${port}; return 200 "nginx"; } }`,
    );
    // Down before nginx starts and never up again, so that every check comes at the fast interval.
    const lb = await balance(
      poolConfig(
        { n: { addr: `127.0.0.1:${port}` } },
        { pool: { health_check_fall: 1, health_check_rise: 1000, health_check_fast_interval_ms: 10 } },
      ),
    );
    await vi.waitFor(() => expect(server(lb, "n").up).toBe(false));
    const nginx = spawn("nginx", ["-p", directory, "-c", join(directory, "nginx.conf")], { stdio: "ignore" });
    toClose.push({
      close: async () => {
        nginx.kill("SIGTERM");
        if (nginx.exitCode === null) await once(nginx, "exit");
        await rm(directory, { recursive: true });
      },
    });
    const checks = async () =>
      (await readFile(log, "utf8").catch(() => "")).split("client closed connection");
    await vi.waitFor(async () => expect((await checks()).length).toBeGreaterThan(100), { timeout: 15_000 });
    expect(await readFile(log, "utf8")).not.toMatch(/\[(warn|error|crit|alert|emerg)\]/);
    expect(await readFile(join(directory, "access.log"), "utf8")).toBe("");
  });
});

describe("drain", () => {
  test("a drained server gets no new connections, keeps its open one, and drain resolves when that ends", async () => {
    const [a, b] = [await echo("a"), await echo("b")];
    const lb = await balance(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }));
    const seen = collect(lb);
    const clients = [await Client.open(lb.address("web")), await Client.open(lb.address("web"))];
    const onB = clients.find((c) => c.greeting === "b") as Client;
    const drained = lb.drain("pool/b", { deadlineMs: 10_000 });
    expect(await answers(lb, 6)).toEqual({ a: 6 });
    expect(await onB.echo("still here")).toBe("still here");
    expect(server(lb, "b")).toMatchObject({ draining: true, up: true, current_connections: 1 });
    onB.close();
    expect(await drained).toEqual({ drained: true, connections: 0 });
    lb.enable("pool/b");
    expect(await answers(lb, 6)).toEqual({ a: 3, b: 3 });
    for (const client of clients) client.close();
    expect(seen.filter((e) => e.type === "drain").map((e) => e.state)).toEqual(["started", "drained"]);
  });

  test("at its deadline drain resolves with what is still open, and cuts nothing", async () => {
    const a = await echo("a");
    const lb = await balance(poolConfig({ a: { addr: a.addr } }));
    const client = await Client.open(lb.address("web"));
    expect(await lb.drain("pool/a", { deadlineMs: 100 })).toEqual({ drained: false, connections: 1 });
    expect(await client.echo("x")).toBe("x");
    client.close();
  });

  test("enable while draining ends the wait", async () => {
    const a = await echo("a");
    const lb = await balance(poolConfig({ a: { addr: a.addr } }));
    const client = await Client.open(lb.address("web"));
    const drained = lb.drain("pool/a", { deadlineMs: 60_000 });
    lb.enable("pool/a");
    expect(await drained).toEqual({ drained: false, connections: 1 });
    client.close();
  });

  test("drain and weight survive a health change and a reload that leaves the server alone", async () => {
    const [a, b] = [await echo("a"), await echo("b")];
    const config = poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } });
    const lb = await balance(config);
    await lb.drain("pool/a", { deadlineMs: 0 });
    lb.setWeight("pool/b", 7);
    await b.close();
    await vi.waitFor(() => expect(server(lb, "b").up).toBe(false), { timeout: 5000 });
    await echo("b", b.port);
    await vi.waitFor(() => expect(server(lb, "b").up).toBe(true), { timeout: 5000 });
    const reloaded = await lb.update({ ...config, limits: { max_connections: 1000 } });
    expect(reloaded.result).toBe("applied");
    expect(server(lb, "a").draining).toBe(true);
    expect(server(lb, "b").weight).toBe(7);
    expect(await answers(lb, 3)).toEqual({ b: 3 });
  });
});

describe("update", () => {
  test("open connections and counters of surviving names go on; frontends open and close", async () => {
    const [a, b] = [await echo("a"), await echo("b")];
    const before = poolConfig({ a: { addr: a.addr } });
    const lb = await balance(before);
    const web = lb.address("web");
    const client = await Client.open(web);
    await client.echo("one");
    const after: ConfigInput = {
      ...before,
      frontends: {
        ...before.frontends,
        extra: { listen_addr: "127.0.0.1:0", backend: "other" },
      },
      backends: { ...before.backends, other: { servers: { b: { addr: b.addr } } } },
    };
    expect(await lb.update(after)).toMatchObject({ result: "applied", warnings: [] });
    expect(lb.address("web")).toEqual(web);
    expect(await client.echo("two")).toBe("two");
    expect(server(lb, "a")).toMatchObject({ total_connections: 1, current_connections: 1 });
    const other = await Client.open(lb.address("extra"));
    expect(other.greeting).toBe("b");
    await lb.update(before);
    expect(await other.echo("kept")).toBe("kept");
    expect(() => lb.address("extra")).toThrow(expect.objectContaining({ code: "NOT_FOUND" }));
    expect(lb.stats().config_version).toBe(3);
    for (const c of [client, other]) c.close();
  });

  test("the same configuration is a no-op and says so", async () => {
    const a = await echo("a");
    const config = poolConfig({ a: { addr: a.addr } });
    const lb = await balance(config);
    expect(await lb.update(structuredClone(config))).toEqual({ result: "unchanged", warnings: [] });
    expect(lb.stats()).toMatchObject({ config_version: 1, last_reload: { result: "unchanged" } });
  });

  test("an invalid one is rejected with every problem, and the old one serves on", async () => {
    const a = await echo("a");
    const config = poolConfig({ a: { addr: a.addr } });
    const lb = await balance(config);
    const seen = collect(lb);
    const bad = { ...config, frontends: { web: { listen_addr: "nonsense", backend: "nowhere" } } };
    const error = await lb.update(bad).catch((e: unknown) => e);
    expect(error).toMatchObject({ code: "CONFIG_INVALID" });
    const paths = (error as { problems: { path: string }[] }).problems.map((p) => p.path);
    expect(paths).toEqual(expect.arrayContaining(["frontends.web.listen_addr", "frontends.web.backend"]));
    expect(await answers(lb, 2)).toEqual({ a: 2 });
    expect(lb.stats()).toMatchObject({ config_version: 1, last_reload: { result: "rejected" } });
    expect(seen).toMatchObject([{ type: "reload", result: "rejected", source: "update" }]);
  });

  test("one whose frontend cannot be bound is rejected whole", async () => {
    const [a, b, taken] = [await echo("a"), await echo("b"), await echo("taken")];
    const lb = await balance(poolConfig({ a: { addr: a.addr } }));
    const next = poolConfig({ b: { addr: b.addr } });
    const update = lb.update({
      ...next,
      frontends: { ...next.frontends, clash: { listen_addr: taken.addr, backend: "pool" } },
    });
    await expect(update).rejects.toMatchObject({ code: "BIND_FAILED" });
    expect(await answers(lb, 2)).toEqual({ a: 2 });
    expect(lb.config.frontends).not.toHaveProperty("clash");
  });

  test("a changed mode is rejected with the remedy, a changed number of workers is a warning", async () => {
    const a = await echo("a");
    const config = poolConfig({ a: { addr: a.addr } });
    const lb = await balance(config);
    const port = await closedPort();
    await expect(
      lb.update({
        ...config,
        mode: "dsr",
        frontends: { web: { listen_addr: `127.0.0.1:${port}`, backend: "pool" } },
        backends: { pool: { servers: { a: { addr: `127.0.0.1:${port}` } } } },
      }),
    ).rejects.toMatchObject({
      code: "CONFIG_INVALID",
      field: "mode",
      message: expect.stringContaining("restart"),
    });
    const { warnings } = await lb.update({ ...config, proxy: { workers: 1 } });
    expect(warnings).toMatchObject([{ path: "proxy.workers", severity: "warning" }]);
    expect(await answers(lb, 1)).toEqual({ a: 1 });
  });

  test("the HTTP server opens, moves and closes with its settings, and stays where it cannot move", async () => {
    const [a, taken] = [await echo("a"), await echo("taken")];
    const config = poolConfig({ a: { addr: a.addr } });
    const get = async (): Promise<number> => {
      const { host, port } = lb.statsAddress as { host: string; port: number };
      return (await fetch(`http://${host.includes(":") ? `[${host}]` : host}:${port}/healthz`)).status;
    };
    const lb = await balance(config);
    expect(lb.statsAddress).toBeUndefined();
    await lb.update({ ...config, stats: { port: 0 } });
    expect(await get()).toBe(200);
    const first = lb.statsAddress;
    await expect(lb.update({ ...config, stats: { port: taken.port } })).rejects.toMatchObject({
      code: "BIND_FAILED",
    });
    expect(lb.statsAddress).toEqual(first);
    expect(await get()).toBe(200);
    // The same port under another address: the old listener has to make room first.
    const port = (first as { port: number }).port;
    await lb.update({ ...config, stats: { port, bind: "127.0.0.2" } });
    expect(lb.statsAddress).toEqual({ host: "127.0.0.2", port });
    expect(await get()).toBe(200);
    await expect(fetch(`http://127.0.0.1:${port}/healthz`)).rejects.toThrow();
    await lb.update(config);
    expect(lb.statsAddress).toBeUndefined();
    await expect(fetch(`http://127.0.0.2:${port}/healthz`)).rejects.toThrow();
  });

  test("many updates at once are applied one after another, the last one last", async () => {
    const a = await echo("a");
    const lb = await balance(poolConfig({ a: { addr: a.addr } }));
    const results = await Promise.all(
      Array.from({ length: 50 }, (_, i) => lb.update(poolConfig({ a: { addr: a.addr, weight: i + 2 } }))),
    );
    expect(results.every((r) => r.result === "applied")).toBe(true);
    expect(server(lb, "a").weight).toBe(51);
    expect(lb.stats().config_version).toBe(51);
  });
});

describe("life cycle", () => {
  test("two balancers in one process do not know of each other", async () => {
    const [a, b] = [await echo("a"), await echo("b")];
    const first = await balance(poolConfig({ a: { addr: a.addr } }, { stats: { port: 0 } }));
    const second = await balance(poolConfig({ b: { addr: b.addr } }, { stats: { port: 0 } }));
    expect([await answers(first, 3), await answers(second, 2)]).toEqual([{ a: 3 }, { b: 2 }]);
    expect(first.stats().total_connections).toBe(3);
    await first.close();
    expect(await answers(second, 2)).toEqual({ b: 2 });
  });

  test("await using closes it", async () => {
    const a = await httpServer("a");
    toClose.push(a);
    let address: { host: string; port: number };
    {
      await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
      address = lb.address("web");
      const response = await fetch(`http://${address.host}:${address.port}/`);
      expect(await response.text()).toBe("a");
    }
    await expect(fetch(`http://${address.host}:${address.port}/`)).rejects.toThrow();
  });

  test("close drains up to its deadline: no new connections, the open one goes on, then it is cut", async () => {
    const a = await echo("a");
    const lb = await balance(poolConfig({ a: { addr: a.addr } }, { stats: { port: 0 } }));
    const web = lb.address("web");
    const { host, port } = lb.statsAddress as { host: string; port: number };
    const client = await Client.open(web);
    const startedAt = performance.now();
    const closed = lb.close({ drainMs: 600 });
    await pause(200);
    expect(await client.echo("draining")).toBe("draining");
    await expect(Client.open(web).then((c) => c.greeting)).resolves.toBe("");
    const ready = await fetch(`http://${host}:${port}/readyz`);
    expect([ready.status, await ready.json()]).toEqual([503, { status: "not ready", reason: "draining" }]);
    await closed;
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(590);
    await vi.waitFor(() => expect(client.ended).toBe(true));
    expect(lb.stats()).toMatchObject({ current_connections: 0, draining: true });
  });

  test("close ends as soon as the last connection has, and a second close can only hurry it", async () => {
    const a = await echo("a");
    const early = await balance(poolConfig({ a: { addr: a.addr } }));
    const client = await Client.open(early.address("web"));
    const closed = early.close({ drainMs: 60_000 });
    client.close();
    await closed;
    const hurried = await balance(poolConfig({ a: { addr: a.addr } }));
    const stays = await Client.open(hurried.address("web"));
    const slow = hurried.close({ drainMs: 60_000 });
    await pause(50);
    await hurried.close();
    await slow;
    stays.close();
  });

  test("after close events end, changes are refused with CLOSED, and stats can still be read", async () => {
    const a = await echo("a");
    const lb = await balance(poolConfig({ a: { addr: a.addr } }));
    await answers(lb, 1);
    const events = lb.events();
    const next = events.next();
    await lb.close();
    expect(await next).toEqual({ done: true, value: undefined });
    await expect(lb.update(poolConfig({ a: { addr: a.addr } }))).rejects.toMatchObject({ code: "CLOSED" });
    await expect(lb.drain("pool/a")).rejects.toMatchObject({ code: "CLOSED" });
    expect(() => lb.enable("pool/a")).toThrow(expect.objectContaining({ code: "CLOSED" }));
    expect(lb.stats().total_connections).toBe(1);
  });

  test("a start that fails leaves nothing running", async () => {
    const [a, taken] = [await echo("a"), await echo("taken")];
    const port = await closedPort();
    const config: ConfigInput = {
      ...poolConfig({ a: { addr: a.addr } }),
      frontends: { web: { listen_addr: `127.0.0.1:${port}`, backend: "pool" } },
    };
    await expect(createBalancer({ ...config, stats: { port: taken.port } })).rejects.toMatchObject({
      code: "BIND_FAILED",
      message: expect.stringContaining(`127.0.0.1:${taken.port}`),
    });
    // The frontend's port is free again.
    const lb = await balance(config);
    expect(await answers(lb, 1)).toEqual({ a: 1 });
  });

  test("a port that another program holds is a clear error with a code", async () => {
    const [a, taken] = [await echo("a"), await echo("taken")];
    const config = poolConfig({ a: { addr: a.addr } });
    await expect(
      createBalancer({ ...config, frontends: { web: { listen_addr: taken.addr, backend: "pool" } } }),
    ).rejects.toMatchObject({ code: "BIND_FAILED", message: expect.stringContaining(taken.addr) });
  });
});
