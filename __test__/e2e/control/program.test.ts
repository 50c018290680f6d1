/** A balancer inside a program: aborting, waiting for its end, handles, and configurations without a balancer. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { configSchema, createBalancer, loadConfig, parseConfig } from "../../../ts/index.ts";
import { answers, Client, echoServer, poolConfig } from "../../support/control.ts";

test("aborting closes it: connections are cut, closed resolves, and the program's signal is let go", async () => {
  await using a = await echoServer("a");
  const stop = new AbortController();
  const lb = await createBalancer(poolConfig({ a: { addr: a.addr } }), { signal: stop.signal });
  const client = await Client.open(lb.address("web"));
  let closed = false;
  void lb.closed.then(() => {
    closed = true;
  });
  stop.abort();
  await lb.closed;
  expect(closed).toBe(true);
  await vi.waitFor(() => expect(client.ended).toBe(true));
  await lb.close();
});

test("an aborted signal rejects the start with its reason, also when it is aborted meanwhile; nothing runs then", async () => {
  await using a = await echoServer("a");
  const config = {
    ...poolConfig({ a: { addr: a.addr } }),
    frontends: { web: { listen_addr: "127.0.0.78:18998", backend: "pool" } },
  };
  await expect(createBalancer(config, { signal: AbortSignal.abort() })).rejects.toMatchObject({
    name: "AbortError",
  });
  const reason = new Error("enough");
  const stop = new AbortController();
  const starting = createBalancer(config, { signal: stop.signal });
  stop.abort(reason);
  await expect(starting).rejects.toBe(reason);
  // The address is free again.
  await using lb = await createBalancer(config);
  expect(await answers(lb, 1)).toEqual({ a: 1 });
});

test("closed resolves when close() has ended, however it came about", async () => {
  const lb = await createBalancer(poolConfig({}));
  let closed = false;
  void lb.closed.then(() => {
    closed = true;
  });
  await lb.close();
  await lb.closed;
  expect(closed).toBe(true);
});

test("a handle is one server by its name: stats, drain, weight, removal", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using lb = await createBalancer({
    frontends: { web: { listen_addr: "127.0.0.1:0", backend: "pool" } },
    backends: { pool: { servers: { a: { addr: a.addr }, b: { addr: b.addr } } } },
  });
  const server = lb.server("pool/b");
  expect([server.name, server.stats().addr]).toEqual(["pool/b", b.addr]);
  server.setWeight(3);
  expect(server.stats().weight).toBe(3);
  expect(await server.drain()).toEqual({ drained: true, connections: 0 });
  expect(await answers(lb, 2)).toEqual({ a: 2 });
  server.enable();
  server.setWeight(null);
  expect(await answers(lb, 4)).toEqual({ a: 2, b: 2 });
  expect(await server.remove({ deadlineMs: 1000 })).toMatchObject({ result: "applied" });
  expect(() => server.stats()).toThrow(expect.objectContaining({ code: "NOT_FOUND" }));
  expect(() => server.enable()).toThrow(expect.objectContaining({ code: "NOT_FOUND" }));
  expect(() => lb.server("pool/b")).toThrow(expect.objectContaining({ code: "NOT_FOUND" }));
  // The name is what it stands for.
  await lb.addServer("pool", { name: "b", addr: b.addr });
  expect(server.stats().addr).toBe(b.addr);
});

test("configurations are judged without a balancer: text, object, file", async () => {
  const text = [
    "[frontends.web]",
    'listen_addr = ":3000"',
    'backend = "app"',
    "[backends.app.servers]",
    'one = { addr = "10.0.0.1:80" }',
  ];
  const { config, warnings } = parseConfig(text.join("\n"));
  expect([config.backends.app?.servers.one, warnings]).toEqual([
    { addr: "10.0.0.1:80", weight: 1, max_connections: 0, backup: false },
    [],
  ]);
  expect(parseConfig({ frontends: config.frontends, backends: config.backends }).config).toEqual(config);
  expect(configSchema.parse({ frontends: config.frontends, backends: config.backends })).toEqual(config);
  const overrides = [{ path: ["log", "level"], value: "debug", origin: "test" }];
  expect(parseConfig(text.join("\n"), { overrides }).config.log.level).toBe("debug");

  const wrong = text.with(4, 'one = { addr = "10.0.0.1" }').join("\n");
  expect(() => parseConfig(wrong, { file: "web.toml" })).toThrow(
    expect.objectContaining({
      code: "CONFIG_INVALID",
      field: "backends.app.servers.one.addr",
      problems: [expect.objectContaining({ file: "web.toml", line: 5, message: "has no port" })],
    }),
  );
  for (const nothing of ["", "nonsense", "= 1"]) {
    expect(() => parseConfig(nothing)).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
  }
  const directory = await mkdtemp(join(tmpdir(), "convey-program-"));
  const file = join(directory, "web.toml");
  await writeFile(file, text.join("\n"), { mode: 0o600 });
  expect(await loadConfig(file)).toEqual({ config, warnings: [] });
  await using lb = await createBalancer.fromFile(file, {
    watch: false,
    overrides: [{ path: ["frontends", "web", "listen_addr"], value: "127.0.0.1:0", origin: "test" }],
  });
  expect(lb.address("web").port).toBeGreaterThan(0);
  await rm(directory, { recursive: true });
  await expect(loadConfig(file)).rejects.toMatchObject({ code: "CONFIG_INVALID" });
});
