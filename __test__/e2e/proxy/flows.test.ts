/** The open connections of proxy mode as flows: listed and ended. */
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { createBalancer, type FlowPage } from "../../../ts/index.ts";
import { poolConfig } from "../../support/control.ts";
import { folder } from "../../support/peers.ts";
import { until } from "../../support/processes.ts";
import { dial, echo, listening } from "../../support/sockets.ts";

test("an open connection is listed with its server and bytes; ended, both its ends are reset and others go on", async () => {
  const sources: string[] = [];
  await using server = await listening((socket) => {
    sources.push(`127.0.0.1:${socket.remotePort}`);
    echo(socket);
  });
  await using lb = await createBalancer(poolConfig({ s1: { addr: server.addr } }));
  const [one, other] = [await dial(lb.address("web")), await dial(lb.address("web"))];
  for (const socket of [one, other]) {
    socket.write("hello");
    await once(socket, "data");
  }
  const client = `127.0.0.1:${one.localPort}`;
  const flow = await until(async () => {
    const [found] = (await lb.flows({ client })).flows;
    return found?.bytes_rx === 5 ? found : undefined;
  }, "the connection's bytes");
  const { port } = lb.address("web");
  expect(flow).toMatchObject({
    ...{ protocol: "tcp", client, frontend: "web", vip: `127.0.0.1:${port}`, state: "established" },
    server: { backend: "pool", name: "s1", addr: server.addr },
    ...{ bytes_tx: 5, bytes_rx: 5, idle_ms: null, expires_in_ms: null, packets: null },
  });
  expect(flow.age_ms).toBeGreaterThanOrEqual(0);
  expect(sources, "its source is what the server sees").toContain(flow.nat);

  const reset = once(one, "error");
  const named = { protocol: "tcp", client, vip: `127.0.0.1:${port}` } as const;
  expect(await lb.killFlows(named)).toEqual({ killed: 1 });
  expect((await reset)[0]).toMatchObject({ code: "ECONNRESET" });
  expect(await lb.killFlows(named), "it ends once").toEqual({ killed: 0 });
  await until(() => lb.stats().current_connections === 1, "its place to be free");
  other.write("again");
  expect(String((await once(other, "data"))[0])).toBe("again");
  expect((await lb.flows()).flows.map((it) => it.client)).toEqual([`127.0.0.1:${other.localPort}`]);
  other.destroy();
});

test("connections that wait are listed with what they wait for, and a new client of a proxy in front ends when told to", async () => {
  await using server = await listening(echo);
  await using lb = await createBalancer({
    frontends: {
      behind: {
        ...{ listen_addr: "127.0.0.1:0", backend: "pool", accept_proxy: true },
        proxy_header_timeout_ms: 60_000,
      },
      routed: {
        ...{ listen_addr: "127.0.0.1:0", backend: "pool", sni: { "a.test": "pool" } },
        client_hello_timeout_ms: 60_000,
      },
      queued: { listen_addr: "127.0.0.1:0", backend: "full" },
    },
    backends: {
      pool: { servers: { s1: { addr: server.addr } } },
      full: {
        ...{ max_connections: 1, queue: 1, queue_timeout_ms: 60_000 },
        servers: { s1: { addr: server.addr } },
      },
    },
  });
  const waiting = async (frontend: string) =>
    await until(async () => {
      const { flows } = await lb.flows({ frontend, state: "new" });
      return flows.find((flow) => flow.waits_for !== null);
    }, "one that waits");

  const behind = await dial(lb.address("behind"));
  behind.write("PROXY TCP4 192.0.2.7 ");
  const peer = `127.0.0.1:${behind.localPort}`;
  expect(await waiting("behind")).toMatchObject({ client: peer, server: null, waits_for: "proxy_header" });
  behind.write("192.0.2.1 4000 80\r\nhello");
  expect(String((await once(behind, "data"))[0])).toBe("hello");
  const { flows } = await lb.flows({ frontend: "behind" });
  expect(flows.map(({ client, waits_for }) => ({ client, waits_for }))).toEqual([
    { client: "192.0.2.7:4000", waits_for: null },
  ]);

  const routed = await dial(lb.address("routed"));
  routed.write(Buffer.from([22, 3, 1]));
  expect(await waiting("routed")).toMatchObject({ waits_for: "client_hello" });

  const [first, second] = [await dial(lb.address("queued")), await dial(lb.address("queued"))];
  expect(await waiting("queued")).toMatchObject({ waits_for: "server" });

  const mute = await dial(lb.address("behind"));
  const told = await waiting("behind");
  expect(told.client).toBe(`127.0.0.1:${mute.localPort}`);
  const closed = once(mute, "end");
  expect(await lb.killFlows({ protocol: "tcp", client: told.client, vip: told.vip })).toEqual({ killed: 1 });
  mute.resume();
  await closed;
  await until(() => lb.stats().current_connections === 4, "its place to be free");
  for (const socket of [behind, routed, first, second, mute]) socket.destroy();
  await until(async () => (await lb.flows()).flows.length === 0, "none to be listed");
});

test("a list of many connections comes page by page, each connection once", async () => {
  await using server = await listening(echo);
  await using lb = await createBalancer(poolConfig({ s1: { addr: server.addr } }));
  const sockets = await Promise.all(Array.from({ length: 25 }, () => dial(lb.address("web"))));
  await until(async () => (await lb.flows()).flows.length === 25, "all connections");
  const listed: string[] = [];
  let cursor: string | null | undefined;
  let pages = 0;
  while (cursor !== null) {
    const page: FlowPage = await lb.flows({ server: "pool/s1" }, { limit: 10, cursor });
    listed.push(...page.flows.map((flow) => flow.client));
    cursor = page.cursor;
    pages += 1;
  }
  expect(listed.sort()).toEqual(sockets.map((socket) => `127.0.0.1:${socket.localPort}`).sort());
  expect(pages).toBeGreaterThanOrEqual(3);
  const ended = Promise.all(sockets.map((socket) => once(socket, "error")));
  expect(await lb.killFlows({ all: true })).toEqual({ killed: 25 });
  await ended;
});

test("what is wrong with a question about flows is named, and nothing is ended", async () => {
  await using server = await listening(echo);
  const lb = await createBalancer(poolConfig({ s1: { addr: server.addr } }));
  const socket = await dial(lb.address("web"));
  await until(async () => (await lb.flows()).flows.length === 1, "the connection");
  await expect(lb.killFlows({ client: "127.0.0.1" })).rejects.toMatchObject({
    code: "CONFIG_INVALID",
    message: expect.stringContaining("this may be more than one flow"),
  });
  await expect(lb.flows({ client: "nobody" })).rejects.toMatchObject({
    code: "CONFIG_INVALID",
    field: "client",
  });
  await expect(lb.flows({}, { limit: 0 })).rejects.toMatchObject({ code: "CONFIG_INVALID", field: "limit" });
  await expect(lb.flows({}, { cursor: "x" })).rejects.toMatchObject({ code: "CONFIG_INVALID" });
  expect((await lb.flows()).flows).toHaveLength(1);
  socket.on("error", () => undefined);
  await lb.close();
  await expect(lb.flows()).rejects.toMatchObject({ code: "CLOSED" });
  await expect(lb.killFlows({ all: true })).rejects.toMatchObject({ code: "CLOSED" });
});

test("watched live, each new connection is told with the server it goes to, and a refused one with the reason", async () => {
  await using one = await listening(echo);
  await using two = await listening(echo);
  await using lb = await createBalancer(
    poolConfig({ s1: { addr: one.addr }, s2: { addr: two.addr } }, { pool: { health_check_interval: 3600 } }),
  );
  const live = lb.explainLive({ frontend: "web" }, { count: 3 });
  const sockets = [await dial(lb.address("web")), await dial(lb.address("web"))];
  const told = [await live.next(), await live.next()].map((it) => it.value?.explanation);
  const flows = (await lb.flows()).flows;
  for (const explanation of told) {
    const flow = flows.find((it) => it.client === explanation?.source);
    expect(explanation).toMatchObject({ protocol: "tcp", frontend: "web", verdict: "connect" });
    expect(explanation?.server).toEqual(flow?.server);
    expect(explanation?.rewritten?.source).toBe(flow?.nat);
  }
  expect(new Set(told.map((it) => it?.server?.name)).size, "both servers").toBe(2);
  for (const server of ["pool/s1", "pool/s2"]) lb.setWeight(server, 0);
  const refused = await dial(lb.address("web"));
  await once(refused.resume(), "end");
  refused.destroy();
  expect((await live.next()).value?.explanation).toMatchObject({ server: null, verdict: "refuse no_server" });
  expect(await live.next(), "as many as were wanted").toEqual({ value: undefined, done: true });
  for (const socket of sockets) socket.destroy();
});

test("a watch ends with its time, with its reader, and with the balancer; a fifth at a time is refused", async () => {
  await using server = await listening(echo);
  const lb = await createBalancer(poolConfig({ s1: { addr: server.addr } }));
  expect(await lb.explainLive({}, { durationMs: 50 }).next()).toEqual({ value: undefined, done: true });
  const four = Array.from({ length: 4 }, () => lb.explainLive());
  expect(() => lb.explainLive()).toThrow(/4 watch decisions already/);
  await four[0]?.return?.();
  await until(() => {
    try {
      four[0] = lb.explainLive();
      return true;
    } catch {
      return undefined;
    }
  }, "room for another");
  expect(() => lb.explainLive({}, { durationMs: 600_001 })).toThrow(
    /durationMs 600001 is not a whole number/,
  );
  expect(() => lb.explainLive({ client: "x" })).toThrow(/client "x"/);
  const rest = four.map((live) => live.next());
  await lb.close();
  for (const ended of await Promise.all(rest)) expect(ended.done).toBe(true);
  expect(() => lb.explainLive()).toThrow(/closed/);
});

test("a connection cut before its PROXY header is whole has a line in the log and a reason", async () => {
  const log = join(folder("flows"), "connections.log");
  const lb = await createBalancer({
    log: { connections: "all", connections_file: log },
    frontends: {
      behind: {
        ...{ listen_addr: "127.0.0.1:0", backend: "pool", accept_proxy: true },
        proxy_header_timeout_ms: 60_000,
      },
    },
    backends: { pool: { servers: { s1: { addr: "127.0.0.1:1" } } } },
  });
  const sockets = [await dial(lb.address("behind")), await dial(lb.address("behind"))];
  const { flows } = await until(async () => {
    const page = await lb.flows();
    return page.flows.length === 2 ? page : undefined;
  }, "both to be listed");
  const { client = "", vip = "" } = flows[0] ?? {};
  expect(await lb.killFlows({ protocol: "tcp", client, vip })).toEqual({ killed: 1 });
  await until(() => lb.stats().current_connections === 1, "its place to be free");
  await lb.close({ drainMs: 100 });
  for (const socket of sockets) socket.destroy();
  const lines = readFileSync(log, "utf8").trim().split("\n");
  expect(lines.map((line) => (JSON.parse(line) as { end: string }).end)).toEqual([
    "killed",
    "drain_deadline",
  ]);
  expect(lb.stats().reasons).toMatchObject({ drain_deadline: 1 });
});
