/** What checks ask, and what is done about failures, where servers are no IP address: names and Unix sockets. */
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createTcpServer, type Socket } from "node:net";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { type ConfigInput, createBalancer } from "../../../ts/index.ts";
import { collect, poolConfig, serverStats } from "../../support/control.ts";
import { addresses, dnsServer } from "../../support/dns.ts";
import { folder } from "../../support/peers.ts";
import { start, until } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import { dial, listening, receive } from "../../support/sockets.ts";

const soon = { timeout: 15_000, interval: 20 };

const app = (list: string[]) => ["A app.test", addresses("app.test", list, 3600)] as const;

const resolver = ({ address }: { address: string }): ConfigInput["resolver"] => ({
  servers: [address],
  min_ttl_ms: 100,
  max_ttl_ms: 3_600_000,
});

/** An HTTP server that answers with a status and keeps what it was asked. */
async function web(listen: string | { host: string; port: number }) {
  const it = { status: 200, hosts: new Set<string | undefined>(), port: 0, close: async () => {} };
  const server = createServer((request, response) => {
    it.hosts.add(request.headers.host);
    response.writeHead(it.status).end();
  });
  await new Promise<void>((ready) => {
    if (typeof listen === "string") server.listen(listen, ready);
    else server.listen(listen.port, listen.host, ready);
  });
  const address = server.address();
  it.port = typeof address === "object" ? (address?.port ?? 0) : 0;
  it.close = async () => {
    server.closeAllConnections();
    await new Promise((closed) => server.close(closed));
  };
  return Object.assign(it, { [Symbol.asyncDispose]: () => it.close() });
}

test("a Unix socket is asked for its status, and its connections are reset when that is bad", async () => {
  const path = join(folder("health-socket"), "web.sock");
  await using server = await web(path);
  const pool = {
    health_check: { type: "http", interval_ms: 100, fast_interval_ms: 100, fall: 1, rise: 1 },
    on_down: "reset",
  } as const;
  const config = poolConfig({ one: { addr: `unix:${path}` } }, { pool: { ...pool } as never });
  // In the table instead.
  for (const key of ["health_check_interval", "health_check_fast_interval_ms"] as const)
    delete config.backends.pool?.[key];
  await using lb = await createBalancer(config);
  await vi.waitFor(
    () => expect(serverStats(lb, "one").last_check).toMatchObject({ ok: true, cause: "status 200" }),
    soon,
  );
  expect(server.hosts).toEqual(new Set(["localhost"]));
  const client = await dial(lb.address("web"));
  const received = receive(client);
  await vi.waitFor(() => expect(serverStats(lb, "one").current_connections).toBe(1), soon);
  server.status = 503;
  await vi.waitFor(() => expect(serverStats(lb, "one")).toMatchObject({ up: false }), soon);
  expect(serverStats(lb, "one").last_check).toMatchObject({ cause: "unexpected status 503" });
  expect((await received).end).toBe("reset");
  server.status = 200;
  await vi.waitFor(() => expect(serverStats(lb, "one")).toMatchObject({ up: true }), soon);
});

test("each address of a name is asked by the name, and one with a bad status has the name asked for anew", async () => {
  await using dns = await dnsServer();
  await using two = await web({ host: "127.0.0.2", port: 0 });
  const { port } = two;
  await using three = await web({ host: "127.0.0.3", port });
  await using four = await web({ host: "127.0.0.4", port });
  dns.zone.set(...app(["127.0.0.2", "127.0.0.3"]));
  const config = poolConfig(
    { one: { addr: `app.test:${port}` } },
    { resolver: resolver(dns), pool: { health_check: { type: "http" }, health_check_fall: 1 } as never },
  );
  await using lb = await createBalancer(config);
  const at = (host: string) => serverStats(lb, `one@${host}:${port}`);
  for (const host of ["127.0.0.2", "127.0.0.3"])
    await vi.waitFor(
      () => expect(at(host).last_check).toMatchObject({ ok: true, cause: "status 200" }),
      soon,
    );
  expect([...two.hosts, ...three.hosts]).toEqual([`app.test:${port}`, `app.test:${port}`]);
  dns.zone.set(...app(["127.0.0.3", "127.0.0.4"]));
  two.status = 500;
  await vi.waitFor(() => expect(at("127.0.0.4").last_check).toMatchObject({ ok: true }), soon);
  expect(four.hosts).toEqual(new Set([`app.test:${port}`]));
  expect(Object.keys(lb.stats().backends.pool?.server_details ?? {}).sort()).toEqual([
    `one@127.0.0.3:${port}`,
    `one@127.0.0.4:${port}`,
  ]);
});

/** Ends every connection at the first byte of its client. */
const cutting = (socket: Socket) => {
  socket.on("error", () => undefined);
  socket.once("data", () => socket.resetAndDestroy());
};

test("an address of a name is ejected alone, has the name asked for anew, and stays out while other addresses come", async () => {
  await using dns = await dnsServer();
  await using bad = await listening(cutting, "127.0.0.2");
  const good = (socket: Socket) => void socket.pipe(socket).on("error", () => undefined);
  await using _three = await listening(good, "127.0.0.3", bad.port);
  await using _four = await listening(good, "127.0.0.4", bad.port);
  dns.zone.set(...app(["127.0.0.2", "127.0.0.3"]));
  const config = poolConfig(
    { one: { addr: `app.test:${bad.port}` } },
    { resolver: resolver(dns), pool: { health_check_interval: 3600, eject_after: 2, eject_ms: 60_000 } },
  );
  await using lb = await createBalancer(config);
  const seen = collect(lb);
  dns.zone.set(...app(["127.0.0.2", "127.0.0.3", "127.0.0.4"]));
  for (let n = 0; n < 4; n++) {
    const client = await dial(lb.address("web"));
    client.on("error", () => undefined);
    const ended = new Promise((end) => client.once("close", end));
    client.once("data", () => client.destroy());
    client.write("hello");
    await ended;
  }
  const names = () => Object.keys(lb.stats().backends.pool?.server_details ?? {});
  await vi.waitFor(() => expect(names()).toHaveLength(3), soon);
  const out = `one@127.0.0.2:${bad.port}`;
  expect(serverStats(lb, out)).toMatchObject({ up: false, ejected_until: expect.any(String) });
  expect(seen).toContainEqual(
    expect.objectContaining({ type: "server", server: out, state: "down", left: 1 }),
  );
  // All addresses that the name has.
  lb.enable("pool/one");
  await vi.waitFor(() => expect(serverStats(lb, out)).toMatchObject({ up: true }), soon);
});

test("a Unix socket that cuts its clients off, or refuses them, is ejected", async () => {
  const path = join(folder("health-socket"), "cut.sock");
  const server = createTcpServer((socket) => {
    socket.on("error", () => undefined);
    socket.once("data", () => socket.destroy());
  });
  await new Promise<void>((ready) => server.listen(path, ready));
  await using good = await listening((socket) => void socket.pipe(socket).on("error", () => undefined));
  const config = poolConfig(
    { cut: { addr: `unix:${path}` }, good: { addr: good.addr } },
    { pool: { health_check: { type: "none" }, eject_after: 2, eject_ms: 1000 } as never },
  );
  for (const key of [
    "health_check_interval",
    "health_check_fast_interval_ms",
    "health_check_timeout_ms",
  ] as const)
    delete config.backends.pool?.[key];
  await using lb = await createBalancer(config);
  const visit = async () => {
    const client = await dial(lb.address("web"));
    client.on("error", () => undefined);
    const ended = new Promise((end) => client.once("close", end));
    client.once("data", () => client.destroy());
    client.on("end", () => client.destroy());
    client.write("hello");
    await ended;
  };
  for (let n = 0; n < 4; n++) await visit();
  await vi.waitFor(() => expect(serverStats(lb, "cut").ejected_until).toBeDefined(), soon);
  expect(serverStats(lb, "cut").reasons).toEqual({ server_unanswered: 2 });
  await new Promise((closed) => server.close(closed));
  await vi.waitFor(() => expect(serverStats(lb, "cut")).toMatchObject({ up: true }), soon);
  for (let n = 0; n < 4; n++) await visit();
  await vi.waitFor(() => expect(serverStats(lb, "cut").ejected_until).toBeDefined(), soon);
});

test("an abstract Unix socket is checked by the name it has, and down once nobody listens there", async (context) => {
  needs(context, { tools: ["socat"] });
  const name = `convey-health-${process.pid}`;
  const socat = start(["socat", `ABSTRACT-LISTEN:${name},fork`, "SYSTEM:cat"]);
  const pool = { health_check_fall: 1, health_check_rise: 1, health_check_interval: 1 };
  await until(() => readFileSync("/proc/net/unix", "utf8").includes(`@${name}\n`), "socat to listen");
  await using lb = await createBalancer(poolConfig({ one: { addr: `unix:@${name}` } }, { pool }));
  try {
    await vi.waitFor(
      () => expect(serverStats(lb, "one")).toMatchObject({ up: true, last_check: { ok: true } }),
      soon,
    );
    const client = await dial(lb.address("web"));
    client.write("hello");
    expect(String((await once(client, "data"))[0])).toBe("hello");
    client.destroy();
  } finally {
    await socat.stop();
  }
  await vi.waitFor(() => {
    const { up, last_check } = serverStats(lb, "one");
    expect([up, last_check?.cause]).toEqual([false, "connection refused (ECONNREFUSED)"]);
  }, soon);
});
