import { expect, test } from "vitest";
import { type ConfigInput, createBalancer } from "../../../ts/index.ts";
import {
  answers,
  Client,
  collect,
  echoServer,
  poolConfig,
  serverStats as server,
} from "../../support/control.ts";

test("open connections and counters of surviving names go on; frontends open and close", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  const before = poolConfig({ a: { addr: a.addr } });
  await using lb = await createBalancer(before);
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
  await using a = await echoServer("a");
  const config = poolConfig({ a: { addr: a.addr } });
  await using lb = await createBalancer(config);
  expect(await lb.update(structuredClone(config))).toEqual({
    result: "unchanged",
    message: "nothing has changed",
    changes: [],
    warnings: [],
  });
  expect(lb.stats()).toMatchObject({ config_version: 1, last_reload: { result: "unchanged" } });
});

test("an invalid one is rejected with every problem, and the old one serves on", async () => {
  await using a = await echoServer("a");
  const config = poolConfig({ a: { addr: a.addr } });
  await using lb = await createBalancer(config);
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
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using taken = await echoServer("taken");
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
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
  await using a = await echoServer("a");
  const config = poolConfig({ a: { addr: a.addr } });
  await using lb = await createBalancer(config);
  await expect(
    lb.update({
      ...config,
      mode: "dsr",
      frontends: { web: { listen_addr: "192.0.2.1:80", backend: "pool" } },
      backends: { pool: { servers: { a: { addr: "198.51.100.1:80" } } } },
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
  await using a = await echoServer("a");
  await using taken = await echoServer("taken");
  const config = poolConfig({ a: { addr: a.addr } });
  const get = async (): Promise<number> => {
    const { host, port } = lb.statsAddress as { host: string; port: number };
    return (await fetch(`http://${host.includes(":") ? `[${host}]` : host}:${port}/healthz`)).status;
  };
  await using lb = await createBalancer(config);
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
  await using a = await echoServer("a");
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
  const results = await Promise.all(
    Array.from({ length: 50 }, (_, i) => lb.update(poolConfig({ a: { addr: a.addr, weight: i + 2 } }))),
  );
  expect(results.every((r) => r.result === "applied")).toBe(true);
  expect(server(lb, "a").weight).toBe(51);
  expect(lb.stats().config_version).toBe(51);
});
