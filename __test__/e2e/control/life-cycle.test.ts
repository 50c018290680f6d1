import { execFileSync } from "node:child_process";
import { constants } from "node:fs";
import { mkdtemp, open, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { type ConfigInput, createBalancer } from "../../../ts/index.ts";
import { answers, Client, collect, echoServer, httpServer, poolConfig } from "../../support/control.ts";
import { freePort } from "../../support/sockets.ts";

test("two balancers in one process do not know of each other", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using first = await createBalancer(poolConfig({ a: { addr: a.addr } }, { stats: { port: 0 } }));
  await using second = await createBalancer(poolConfig({ b: { addr: b.addr } }, { stats: { port: 0 } }));
  expect([await answers(first, 3), await answers(second, 2)]).toEqual([{ a: 3 }, { b: 2 }]);
  expect(first.stats().total_connections).toBe(3);
  await first.close();
  expect(await answers(second, 2)).toEqual({ b: 2 });
});

test("await using closes it", async () => {
  await using a = await httpServer("a");
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
  await using a = await echoServer("a");
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }, { stats: { port: 0 } }));
  const web = lb.address("web");
  const { host, port } = lb.statsAddress as { host: string; port: number };
  const client = await Client.open(web);
  const startedAt = performance.now();
  const closed = lb.close({ drainMs: 600 });
  await sleep(200);
  expect(await client.echo("draining")).toBe("draining");
  await expect(Client.open(web).then((c) => c.greeting)).resolves.toBe("");
  const ready = await fetch(`http://${host}:${port}/readyz`);
  const body = { status: "not ready", reason: "draining", frontends: { web: false } };
  expect([ready.status, await ready.json()]).toEqual([503, body]);
  await closed;
  expect(performance.now() - startedAt).toBeGreaterThanOrEqual(590);
  await vi.waitFor(() => expect(client.ended).toBe(true));
  expect(lb.stats()).toMatchObject({ current_connections: 0, draining: true });
});

test("of a thousand frontends each tells where it listens, in no time that grows with their square", async () => {
  await using a = await echoServer("a");
  const names = Array.from({ length: 1000 }, (_, i) => `f${i}`);
  await using lb = await createBalancer({
    ...poolConfig({ a: { addr: a.addr } }),
    frontends: Object.fromEntries(
      names.map((name) => [name, { listen_addr: "127.0.0.1:0", backend: "pool" }]),
    ),
    proxy: { workers: 1 },
  });
  const startedAt = performance.now();
  const ports = new Set(names.map((name) => lb.address(name).port));
  expect(performance.now() - startedAt).toBeLessThan(1000);
  expect(ports.size).toBe(1000);
  const config = lb.config;
  await lb.update({
    ...config,
    frontends: { f0: config.frontends.f0 as { listen_addr: string; backend: string } },
  });
  expect(() => lb.address("f1")).toThrow(/no frontend named "f1" is listening/);
  expect(ports).toContain(lb.address("f0").port);
});

test("a health change during the drain opens nothing again", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b", await freePort());
  await using lb = await createBalancer(
    poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }, { pool: { health_check_fall: 1 } }),
  );
  const web = lb.address("web");
  const seen = collect(lb);
  const client = await Client.open(web);
  const closed = lb.close({ drainMs: 60_000 });
  await b.close();
  await vi.waitFor(
    () => expect(seen).toContainEqual(expect.objectContaining({ server: "b", state: "down" })),
    {
      timeout: 10_000,
    },
  );
  await expect(Client.open(web).then((c) => c.greeting)).resolves.toBe("");
  expect(await client.echo("still")).toBe("still");
  client.close();
  await closed;
});

test("close does not wait for a reload that hangs on its file, which then has no effect", async () => {
  await using a = await echoServer("a");
  const directory = await mkdtemp(join(tmpdir(), "convey-hung-"));
  const file = join(directory, "config.toml");
  const text = `[frontends.web]\nlisten_addr = "127.0.0.1:0"\nbackend = "pool"\n[backends.pool.servers]\na = { addr = "${a.addr}" }\n`;
  await writeFile(file, text);
  const lb = await createBalancer({ configFile: file }, { watch: false });
  await rm(file);
  execFileSync("mkfifo", [file]);
  const writer = await open(file, constants.O_RDWR);
  const reload = lb.reload().catch((error: { code: string }) => error.code);
  await sleep(100);
  const startedAt = performance.now();
  await lb.close({ drainMs: 60_000 });
  expect(performance.now() - startedAt).toBeLessThan(5000);
  expect(await reload).toBe("CLOSED");
  await writer.write(text);
  await writer.close();
  await rm(directory, { recursive: true });
});

test("close ends as soon as the last connection has, and a second close can only hurry it", async () => {
  await using a = await echoServer("a");
  await using early = await createBalancer(poolConfig({ a: { addr: a.addr } }));
  const client = await Client.open(early.address("web"));
  const closed = early.close({ drainMs: 60_000 });
  client.close();
  await closed;
  await using hurried = await createBalancer(poolConfig({ a: { addr: a.addr } }));
  const stays = await Client.open(hurried.address("web"));
  const slow = hurried.close({ drainMs: 60_000 });
  await sleep(50);
  await hurried.close();
  await slow;
  stays.close();
});

test("after close events end, changes are refused with CLOSED, and stats can still be read", async () => {
  await using a = await echoServer("a");
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
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
  await using a = await echoServer("a");
  await using taken = await echoServer("taken");
  const port = await freePort();
  const config: ConfigInput = {
    ...poolConfig({ a: { addr: a.addr } }),
    frontends: { web: { listen_addr: `127.0.0.1:${port}`, backend: "pool" } },
  };
  await expect(createBalancer({ ...config, stats: { port: taken.port } })).rejects.toMatchObject({
    code: "BIND_FAILED",
    message: expect.stringContaining(`127.0.0.1:${taken.port}`),
  });
  // The frontend's port is free again.
  await using lb = await createBalancer(config);
  expect(await answers(lb, 1)).toEqual({ a: 1 });
});

test("a port that another program holds is a clear error with a code", async () => {
  await using a = await echoServer("a");
  await using taken = await echoServer("taken");
  const config = poolConfig({ a: { addr: a.addr } });
  await expect(
    createBalancer({ ...config, frontends: { web: { listen_addr: taken.addr, backend: "pool" } } }),
  ).rejects.toMatchObject({ code: "BIND_FAILED", message: expect.stringContaining(taken.addr) });
});
