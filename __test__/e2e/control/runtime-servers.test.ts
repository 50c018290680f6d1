/** Servers that come and go while a balancer runs, over real servers. */
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test, vi } from "vitest";
import { type Balancer, createBalancer, type NewServer } from "../../../ts/index.ts";
import { answers, Client, collect, echoServer, poolConfig, serverStats } from "../../support/control.ts";
import { echo, listening } from "../../support/sockets.ts";

const names = (lb: Balancer): string[] => Object.keys(lb.stats().backends.pool?.server_details ?? {}).sort();
const origins = (lb: Balancer): Record<string, string> =>
  Object.fromEntries(names(lb).map((name) => [name, serverStats(lb, name).origin]));

test("an added server is in service before the call resolves, and stats tell where each comes from", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
  const seen = collect(lb);
  const result = await lb.addServer("pool", { name: "b", addr: b.addr, weight: 3 });
  expect(result).toEqual({
    result: "applied",
    message: "+1 server pool/b",
    changes: [{ kind: "added", what: "server", name: "pool/b" }],
    warnings: [],
  });
  expect(await answers(lb, 8)).toEqual({ a: 2, b: 6 });
  expect(origins(lb)).toEqual({ a: "file", b: "runtime" });
  expect(lb.stats()).toMatchObject({ config_version: 2, last_reload: null });
  expect(seen).toMatchObject([{ type: "servers", changes: result.changes, config_version: 2 }]);
});

test("an added server is checked as the others are", async () => {
  await using a = await echoServer("a");
  await using lb = await createBalancer(
    poolConfig({ a: { addr: a.addr } }, { pool: { health_check_fall: 1 } }),
  );
  await lb.addServer("pool", { name: "dead", addr: "127.0.0.1:1" });
  await vi.waitFor(() => expect(serverStats(lb, "dead").up).toBe(false), { timeout: 10_000 });
  expect(await answers(lb, 3)).toEqual({ a: 3 });
});

test("open connections of a removed server go on, new ones go elsewhere", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }));
  const clients = [await Client.open(lb.address("web")), await Client.open(lb.address("web"))];
  expect(await lb.removeServer("pool/b")).toMatchObject({ result: "applied", message: "−1 server pool/b" });
  expect(await answers(lb, 3)).toEqual({ a: 3 });
  expect(names(lb)).toEqual(["a"]);
  for (const client of clients) {
    expect(await client.echo("on")).toBe("on");
    client.close();
  }
});

test("with a deadline a server is drained before it is removed, and stays when it is enabled meanwhile", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }));
  const clients = [await Client.open(lb.address("web")), await Client.open(lb.address("web"))];
  const calledOff = lb.removeServer("pool/b", { deadlineMs: 60_000 });
  await sleep(100);
  lb.enable("pool/b");
  expect(await calledOff).toMatchObject({ result: "unchanged", changes: [], drain: { drained: false } });
  expect(names(lb)).toEqual(["a", "b"]);
  const removed = lb.removeServer("pool/b", { deadlineMs: 60_000 });
  await sleep(100);
  expect(names(lb)).toEqual(["a", "b"]);
  for (const client of clients) client.close();
  expect(await removed).toMatchObject({ result: "applied", drain: { drained: true, connections: 0 } });
  expect(names(lb)).toEqual(["a"]);
  await lb.addServer("pool", { name: "b", addr: b.addr });
  const client = await Client.open(lb.address("web"));
  const late = await lb.removeServer("pool/b", { deadlineMs: 0 });
  expect([late.result, names(lb)]).toEqual(["applied", ["a"]]);
  client.close();
});

test("the last server may go: the frontend refuses until one comes", async () => {
  await using a = await echoServer("a");
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
  const { warnings } = await lb.removeServer("pool/a");
  expect(warnings).toMatchObject([
    { path: "backends.pool", message: expect.stringContaining("has no servers") },
  ]);
  expect(await answers(lb, 1)).toEqual({ nobody: 1 });
  await lb.addServer("pool", { name: "a", addr: a.addr });
  expect(await answers(lb, 1)).toEqual({ a: 1 });
  // It is as the configuration has it again.
  expect(origins(lb)).toEqual({ a: "file" });
});

test("the list of a backend is compared with what is there; what is the same is not touched", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using c = await echoServer("c");
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }));
  lb.setWeight("pool/a", 2);
  const client = await Client.open(lb.address("web"));
  const result = await lb.setServers("pool", [
    { name: "a", addr: a.addr },
    { name: "c", addr: c.addr, weight: 4 },
  ]);
  expect(result.message).toBe("+1 server pool/c, −1 server pool/b");
  expect(origins(lb)).toEqual({ a: "file", c: "runtime" });
  expect(await answers(lb, 6)).toEqual({ a: 2, c: 4 });
  expect(await client.echo("on")).toBe("on");
  client.close();
  const same = await lb.setServers("pool", { a: { addr: a.addr }, c: { addr: c.addr, weight: 4 } });
  expect(same).toEqual({ result: "unchanged", message: "nothing has changed", changes: [], warnings: [] });
  const version = lb.stats().config_version;
  expect((await lb.setServers("pool", { a: { addr: a.addr, weight: 9 } })).changes).toEqual([
    { kind: "removed", what: "server", name: "pool/c" },
    { kind: "changed", path: "backends.pool.servers.a.weight", server: "pool/a", from: 1, to: 9 },
  ]);
  expect([lb.stats().config_version, origins(lb)]).toEqual([version + 1, { a: "runtime" }]);
  expect((await lb.setServers("pool", [])).warnings).toHaveLength(1);
});

describe("over reloads", () => {
  test("an added server stays until the configuration names it, its backend goes or it is removed", async () => {
    await using a = await echoServer("a");
    await using b = await echoServer("b");
    const config = poolConfig({ a: { addr: a.addr } });
    await using lb = await createBalancer(config);
    await lb.addServer("pool", { name: "b", addr: b.addr, weight: 3 });
    await lb.update(poolConfig({ a: { addr: a.addr, weight: 2 } }));
    expect(serverStats(lb, "b")).toMatchObject({ origin: "runtime", weight: 3 });
    await lb.update(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr, weight: 5 } }));
    expect(serverStats(lb, "b")).toMatchObject({ origin: "file", weight: 5 });
    // From here on it is the configuration's, so it goes with it.
    await lb.update(config);
    expect(names(lb)).toEqual(["a"]);
    await lb.addServer("pool", { name: "b", addr: b.addr });
    await lb.update({
      ...config,
      frontends: { web: { listen_addr: "127.0.0.1:0", backend: "other" } },
      backends: { other: { servers: { a: { addr: a.addr } } } },
    });
    await lb.update(config);
    expect(names(lb)).toEqual(["a"]);
  });

  test("a removed server stays away until its entry changes", async () => {
    await using a = await echoServer("a");
    await using b = await echoServer("b");
    const both = poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } });
    await using lb = await createBalancer(both);
    await lb.removeServer("pool/b");
    await lb.update({ ...both, proxy: { workers: 2 }, limits: { max_connections: 100 } });
    expect(names(lb)).toEqual(["a"]);
    await lb.update(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr, weight: 2 } }));
    expect(origins(lb)).toEqual({ a: "file", b: "file" });
    // Gone from the configuration and back: that is a change too.
    await lb.removeServer("pool/b");
    await lb.update(poolConfig({ a: { addr: a.addr } }));
    await lb.update(both);
    expect(names(lb)).toEqual(["a", "b"]);
  });

  test("one that fails leaves what was changed at run time; a drained server comes back drained", async () => {
    await using a = await echoServer("a");
    await using b = await echoServer("b");
    await using c = await echoServer("c");
    await using lb = await createBalancer(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }));
    await lb.addServer("pool", { name: "c", addr: c.addr });
    await lb.removeServer("pool/a");
    await lb.drain("pool/b");
    await expect(lb.update({ frontends: {}, backends: {} })).rejects.toMatchObject({
      code: "CONFIG_INVALID",
    });
    // The HTTP server is to have the port that a frontend leaves, on an address where somebody else listens: that
    // shows when the data plane has the new configuration already.
    const { port } = lb.address("web");
    await using _ = await listening(echo, "127.0.0.2", port);
    const late = poolConfig({ a: { addr: a.addr } }, { stats: { port, bind: "127.0.0.2" } });
    const installed = lb.stats().config_version;
    await expect(
      lb.update({ ...late, frontends: { web: { listen_addr: "127.0.0.3:0", backend: "pool" } } }),
    ).rejects.toMatchObject({ code: "BIND_FAILED" });
    expect(lb.stats().config_version).toBe(installed);
    expect([origins(lb), serverStats(lb, "b").draining]).toEqual([{ b: "file", c: "runtime" }, true]);
    expect(await answers(lb, 2)).toEqual({ c: 2 });
  });

  test("one under which a server of the run time would break a rule is refused with its name", async () => {
    await using a = await echoServer("a");
    await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
    const { port } = lb.address("web");
    await lb.addServer("pool", { name: "b", addr: `127.0.0.9:${port}` });
    const loop = { web: { listen_addr: `127.0.0.9:${port}`, backend: "pool" } };
    await expect(
      lb.update({ ...poolConfig({ a: { addr: a.addr } }), frontends: loop }),
    ).rejects.toMatchObject({
      code: "CONFIG_INVALID",
      field: "backends.pool.servers.b.addr",
      problems: [{ origin: "a change at run time", message: expect.stringContaining("circle") }],
    });
    const plan = await lb.plan({ ...poolConfig({ a: { addr: a.addr } }), frontends: loop });
    expect(plan).toMatchObject({ ok: false, problems: [{ path: "backends.pool.servers.b.addr" }] });
    expect(names(lb)).toEqual(["a", "b"]);
  });

  test("changes during a reload have their turn after it, and before one that was asked for later", async () => {
    await using a = await echoServer("a");
    await using b = await echoServer("b");
    await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
    const later = poolConfig({ a: { addr: a.addr, weight: 2 } });
    const withOther = {
      ...later,
      frontends: { ...later.frontends, extra: { listen_addr: "127.0.0.1:0", backend: "other" } },
      backends: { ...later.backends, other: { servers: {} } },
    };
    const results = await Promise.allSettled([
      lb.update(later),
      lb.addServer("pool", { name: "b", addr: b.addr }),
      lb.addServer("other", { name: "early", addr: b.addr }),
      lb.update(withOther),
      lb.addServer("other", { name: "x", addr: b.addr }),
      lb.removeServer("pool/b"),
    ]);
    expect(results.map(({ status }) => status === "fulfilled")).toEqual([
      true,
      true,
      false,
      true,
      true,
      true,
    ]);
    expect(results[2]).toMatchObject({
      reason: { code: "NOT_FOUND", message: 'no backend is named "other"' },
    });
    expect([names(lb), Object.keys(lb.stats().backends.other?.server_details ?? {})]).toEqual([["a"], ["x"]]);
  });
});

test("what is wrong is refused with its place, and nothing changes", async () => {
  await using a = await echoServer("a");
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
  const add = async (server: unknown, backend = "pool"): Promise<unknown> =>
    await lb.addServer(backend, server as NewServer).catch((error: unknown) => error);
  const at = "backends.pool.servers";
  for (const [server, field, message] of [
    [{ name: "b" }, `${at}.b.addr`, "is missing"],
    [{ name: "b", addr: "127.0.0.1" }, `${at}.b.addr`, "has no port"],
    [{ name: "b", addr: "a name:80" }, `${at}.b.addr`, "has no host name"],
    [{ name: "b", addr: "10.0.0.1:80", weight: 65536 }, `${at}.b.weight`, "is out of range"],
    [{ name: "b", addr: "10.0.0.1:80", wieght: 2 }, `${at}.b.wieght`, 'did you mean "weight"'],
    [{ name: "b/c", addr: "10.0.0.1:80" }, `${at}."b/c"`, 'a name cannot contain "/"'],
    [{ name: "", addr: "10.0.0.1:80" }, `${at}.""`, "a name cannot be empty"],
    [{ name: "__proto__", addr: "10.0.0.1:80" }, `${at}.__proto__`, "is reserved"],
    [{ addr: "10.0.0.1:80" }, at, "a server needs a name"],
    [{ name: "a", addr: "10.0.0.1:80" }, `${at}.a`, "is there already"],
  ] as const) {
    expect(await add(server), JSON.stringify(server)).toMatchObject({
      code: "CONFIG_INVALID",
      field,
      message: expect.stringContaining(message),
    });
  }
  expect(await add({ name: "b", addr: a.addr }, "nowhere")).toMatchObject({ code: "NOT_FOUND" });
  await expect(lb.removeServer("pool/x")).rejects.toMatchObject({ code: "NOT_FOUND" });
  await expect(lb.removeServer("pool")).rejects.toMatchObject({ code: "NOT_FOUND" });
  await expect(lb.removeServer("pool/a", { deadlineMs: Number.NaN })).rejects.toMatchObject({
    code: "CONFIG_INVALID",
  });
  await expect(lb.setServers("toString", [])).rejects.toMatchObject({ code: "NOT_FOUND" });
  const twice = [
    { name: "b", addr: a.addr },
    { name: "b", addr: "10.0.0.1:80" },
  ];
  await expect(lb.setServers("pool", twice)).rejects.toMatchObject({
    message: expect.stringContaining("twice"),
  });
  expect([names(lb), lb.stats().config_version]).toEqual([["a"], 1]);
});

test("the same address twice behind a backend is a warning, as in the configuration", async () => {
  await using a = await echoServer("a");
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
  const { warnings } = await lb.addServer("pool", { name: "again", addr: a.addr });
  expect(warnings).toMatchObject([
    { path: "backends.pool.servers.again.addr", message: 'is the address of server "a" too' },
  ]);
});

test("names with odd characters are names", async () => {
  await using a = await echoServer("a");
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
  const odd = [
    "constructor",
    "toString",
    "a.b",
    "sp ace",
    "ü",
    "💡",
    '"quoted"',
    "%2F",
    "-",
    "x".repeat(255),
  ];
  for (const name of odd) await lb.addServer("pool", { name, addr: a.addr });
  expect(names(lb)).toEqual(["a", ...odd].sort());
  expect((await lb.setServers("pool", { "a.b": { addr: a.addr, weight: 2 } })).changes).toContainEqual({
    kind: "changed",
    path: 'backends.pool.servers."a.b".weight',
    server: "pool/a.b",
    from: 1,
    to: 2,
  });
  lb.setWeight("pool/a.b", 3);
  expect(await answers(lb, 2)).toEqual({ a: 2 });
  await lb.removeServer("pool/a.b");
  expect(names(lb)).toEqual([]);
});

test("a thousand at once are a few steps, in which one that is wrong takes no other with it", async () => {
  await using a = await echoServer("a");
  await using lb = await createBalancer(
    poolConfig({ a: { addr: a.addr } }, { pool: { health_check_interval: 3600 } }),
  );
  const addr = (n: number): string => `127.${1 + (n >> 8)}.${n & 255}.1:9`;
  const startedAt = performance.now();
  const added = await Promise.allSettled(
    Array.from({ length: 1000 }, (_, n) =>
      lb.addServer("pool", { name: `s${n}`, addr: n === 500 ? "nonsense" : addr(n), weight: 0 }),
    ),
  );
  expect(added.filter(({ status }) => status === "rejected")).toHaveLength(1);
  expect(added[500]).toMatchObject({ reason: { field: "backends.pool.servers.s500.addr" } });
  expect(lb.stats().config_version).toBeLessThan(10);
  expect(names(lb)).toHaveLength(1000);
  await Promise.all(names(lb).map((name) => (name === "a" ? undefined : lb.removeServer(`pool/${name}`))));
  expect(names(lb)).toEqual(["a"]);
  // Seconds on a busy machine would still be far from a second each.
  expect(performance.now() - startedAt).toBeLessThan(15_000);
  expect(await answers(lb, 2)).toEqual({ a: 2 });
});

test("one of a thousand that breaks a rule between servers and frontends is refused alone", async () => {
  await using a = await echoServer("a");
  await using lb = await createBalancer({
    ...poolConfig({ a: { addr: a.addr } }),
    frontends: { web: { listen_addr: "127.0.0.77:18999", backend: "pool" } },
  });
  const added = await Promise.allSettled(
    Array.from({ length: 100 }, (_, n) =>
      lb.addServer("pool", {
        name: `s${n}`,
        addr: n === 30 ? "127.0.0.77:18999" : `127.9.0.${n + 1}:9`,
        weight: 0,
      }),
    ),
  );
  expect(added.flatMap(({ status }, n) => (status === "rejected" ? [n] : []))).toEqual([30]);
  expect(names(lb)).toHaveLength(100);
});

test("two that remove one server at once: it is gone for both, and a drain before it does not mind", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }));
  const [drained, removed, again] = await Promise.allSettled([
    lb.removeServer("pool/b", { deadlineMs: 1000 }),
    lb.removeServer("pool/b"),
    lb.removeServer("pool/b"),
  ]);
  expect(drained).toMatchObject({ value: { result: "unchanged", message: "pool/b is gone already" } });
  expect(removed).toMatchObject({ value: { result: "applied" } });
  expect(again).toMatchObject({ reason: { code: "NOT_FOUND" } });
  expect(await answers(lb, 2)).toEqual({ a: 2 });
});

test("after close every change is refused with CLOSED, also those that waited", async () => {
  await using a = await echoServer("a");
  const lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
  const client = await Client.open(lb.address("web"));
  const draining = lb.removeServer("pool/a", { deadlineMs: 60_000 }).catch((error: unknown) => error);
  await sleep(100);
  await lb.close();
  client.close();
  expect(await draining).toMatchObject({ code: "CLOSED" });
  for (const late of [
    () => lb.addServer("pool", { name: "c", addr: a.addr }),
    () => lb.removeServer("pool/a"),
    () => lb.setServers("pool", []),
    () => lb.plan(poolConfig({})),
    () => lb.confirmReload(),
  ]) {
    await expect(late()).rejects.toMatchObject({ code: "CLOSED" });
  }
});
