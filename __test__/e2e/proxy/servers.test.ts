/** Which server gets a connection, and what happens when it does not. */
import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, expect, test } from "vitest";
import { type Balancer, type BalancerEvent, createBalancer } from "../../../ts/index.ts";
import { answers, blackHole, Client, collect, echoServer, poolConfig } from "../../support/control.ts";
import { loadgenPath, startServer } from "../../support/loadgen.ts";
import { cpuSeconds, until } from "../../support/processes.ts";
import { dial, echo, freePort, listening, receive, spokenTo } from "../../support/sockets.ts";

// Built here, so that a first build is not charged to a test.
beforeAll(() => loadgenPath(), 300_000);

/** Checks so rare and forgiving that only the data plane's own judgement counts. */
const UNCHECKED = {
  health_check_interval: 3600,
  health_check_fast_interval_ms: 3_600_000,
  health_check_fall: 1000,
};

test("a refused connect goes to another server; the client notices nothing and one reason is counted", async () => {
  await using good = await echoServer("good");
  const bad = `127.0.0.1:${await freePort()}`;
  await using lb = await createBalancer(
    poolConfig({ bad: { addr: bad }, good: { addr: good.addr } }, { pool: UNCHECKED }),
  );
  expect(await answers(lb, 10)).toEqual({ good: 10 });
  const { bad: refused } = lb.stats().backends.pool?.server_details ?? {};
  expect(refused?.reasons).toEqual({ connect_refused: 5 });
  expect(lb.stats().reasons.retries_exhausted).toBeUndefined();
});

test("a black-holed connect is given up after its timeout for another server, and the first bytes are not lost", async () => {
  await using good = await echoServer("good");
  await using hole = await blackHole();
  const pool = { ...UNCHECKED, connect_timeout_ms: 300 };
  await using lb = await createBalancer(
    poolConfig({ hole: { addr: hole.addr }, good: { addr: good.addr } }, { pool }),
  );
  for (let n = 0; n < 2; n++) {
    const socket = await dial(lb.address("web"));
    const begun = performance.now();
    socket.end("said before any server was found\n");
    const got = await receive(socket);
    expect(got).toMatchObject({ bytes: "good\nsaid before any server was found\n".length, end: "fin" });
    expect(performance.now() - begun).toBeLessThan(1500);
  }
  expect(lb.stats().backends.pool?.server_details.hole?.reasons).toEqual({ connect_timeout: 1 });
});

test("at most `retries` further servers are tried, none twice, then the client is closed", async () => {
  const refusing: Record<string, { addr: string }> = {};
  for (let n = 0; n < 5; n++) refusing[`s${n}`] = { addr: `127.0.0.1:${await freePort()}` };
  await using lb = await createBalancer(poolConfig(refusing, { pool: { ...UNCHECKED, retries: 2 } }));
  const socket = await dial(lb.address("web"));
  expect(await receive(socket)).toMatchObject({ bytes: 0 });
  const counts = Object.values(lb.stats().backends.pool?.server_details ?? {}).map(
    (server) => server.reasons.connect_refused ?? 0,
  );
  expect(counts.sort()).toEqual([0, 0, 1, 1, 1]);
  expect(lb.stats().frontends.web?.reasons).toEqual({ connect_refused: 3, retries_exhausted: 1 });
});

test("after a byte has flowed no other server is tried", async () => {
  // Both reset whoever has spoken, so that a second attempt would show wherever it went.
  let spoken = 0;
  const resetting = spokenTo((socket) => {
    spoken += 1;
    setTimeout(() => socket.resetAndDestroy(), 50);
  });
  await using first = await listening(resetting);
  await using second = await listening(resetting);
  const servers = { first: { addr: first.addr }, second: { addr: second.addr } };
  await using lb = await createBalancer(poolConfig(servers, { pool: { ...UNCHECKED, retries: 2 } }));
  for (let n = 1; n <= 4; n++) {
    const socket = await dial(lb.address("web"));
    socket.write("hello");
    expect(await receive(socket)).toMatchObject({ bytes: 0, end: "reset" });
    await sleep(100);
    expect(spoken).toBe(n);
  }
  expect(lb.stats().frontends.web?.reasons).toEqual({ server_reset: 4 });
});

test("with no server available the client is closed promptly and counted", async () => {
  await using lb = await createBalancer(poolConfig({}));
  const begun = performance.now();
  const socket = await dial(lb.address("web"));
  expect(await receive(socket)).toMatchObject({ bytes: 0 });
  expect(performance.now() - begun).toBeLessThan(500);
  expect(lb.stats().frontends.web?.reasons).toEqual({ no_server: 1 });
  expect(lb.stats().current_connections).toBe(0);
});

/** The two ways to another weight of server b. */
const REWEIGH = {
  "a reload": (lb: Balancer, servers: Record<"a" | "b", string>, weight: number) =>
    lb.update(poolConfig({ a: { addr: servers.a }, b: { addr: servers.b, weight } })),
  setWeight: (lb: Balancer, _: unknown, weight: number) => lb.setWeight("pool/b", weight),
};

test.each(Object.entries(REWEIGH))(
  "30 connections to two equal servers are 15 and 15, at 1:2 by %s 10 and 20, at weight zero none goes there",
  async (_, reweigh) => {
    await using a = await echoServer("a");
    await using b = await echoServer("b");
    const addresses = { a: a.addr, b: b.addr };
    await using lb = await createBalancer(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }));
    expect(await answers(lb, 30)).toEqual({ a: 15, b: 15 });
    await reweigh(lb, addresses, 2);
    expect(await answers(lb, 30)).toEqual({ a: 10, b: 20 });
    await reweigh(lb, addresses, 0);
    expect(await answers(lb, 10)).toEqual({ a: 10 });
    await reweigh(lb, addresses, 1);
    expect(await answers(lb, 10)).toEqual({ a: 5, b: 5 });
  },
);

test("one blip shorter than `fall` checks never empties the pool", async () => {
  await using server = await echoServer("s1");
  const pool = { health_check_fall: 5, health_check_fast_interval_ms: 200, health_check_interval: 1 };
  await using lb = await createBalancer(poolConfig({ s1: { addr: server.addr } }, { pool }));
  const seen = collect(lb);
  await until(() => lb.stats().backends.pool?.server_details.s1?.last_check?.ok, "a good check");
  await server.close();
  await until(() => lb.stats().backends.pool?.server_details.s1?.last_check?.ok === false, "a failed check");
  await using _again = await echoServer("s1", server.port);
  await until(() => lb.stats().backends.pool?.server_details.s1?.last_check?.ok, "a good check again");
  expect(await answers(lb, 3)).toEqual({ s1: 3 });
  expect(seen.filter((event: BalancerEvent) => event.type === "server")).toEqual([]);
});

test("a server killed mid-flow ends its clients at once; connections to others go on", async () => {
  const doomed = await startServer();
  await using other = await echoServer("other");
  await using _ = doomed.process;
  await using lb = await createBalancer(
    poolConfig({ doomed: { addr: doomed.address }, other: { addr: other.addr } }),
  );
  const clients = [await dial(lb.address("web")), await dial(lb.address("web"))];
  // One of the two is on each server; the echo server greets, the other streams when asked.
  const greeted = await Promise.race(
    clients.map(
      (socket) => new Promise<number>((ok) => socket.once("data", () => ok(clients.indexOf(socket)))),
    ),
  );
  const [safe, streaming] = [clients[greeted], clients[1 - greeted]];
  if (safe === undefined || streaming === undefined) throw new Error("no connection");
  streaming.write("GET /bulk HTTP/1.1\r\n\r\n");
  const ended = receive(streaming);
  await until(() => lb.stats().total_bytes_rx > 10_000_000, "bulk to flow");
  const killedAt = performance.now();
  process.kill(doomed.process.pid, "SIGKILL");
  await ended;
  expect(performance.now() - killedAt).toBeLessThan(1000);
  streaming.destroy();
  safe.write("still here\n");
  expect(String(await new Promise((ok) => safe.once("data", ok)))).toBe("still here\n");
  safe.destroy();
});

test("a server that fails its checks, is drained or removed keeps its open connections", async () => {
  await using a = await echoServer("a");
  await using b = await listening(echo);
  await using _ = b;
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
  const open = await Client.open(lb.address("web"));
  void lb.drain("pool/a", { deadlineMs: 0 });
  expect(await open.echo("drained")).toBe("drained");
  await lb.update(poolConfig({ b: { addr: b.addr } }));
  expect(await open.echo("removed")).toBe("removed");
  expect(lb.stats().frontends.web?.current_connections).toBe(1);

  const flow = await dial(lb.address("web"));
  const [said] = await exchange(flow, "before");
  b.server.close();
  await until(() => lb.stats().backends.pool?.server_details.b?.up === false, "server b to be down");
  const [after] = await exchange(flow, "after");
  expect([said, after]).toEqual(["before", "after"]);
  open.close();
  flow.destroy();
  await until(() => lb.stats().current_connections === 0, "gauges to return to 0");
});

test("with every server at its limit a client is closed at once, counted, and nothing spins", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  const config = poolConfig({});
  const servers = { a: { addr: a.addr, max_connections: 1 }, b: { addr: b.addr, max_connections: 1 } };
  await using lb = await createBalancer({
    ...config,
    backends: { pool: { ...config.backends.pool, servers } },
  });
  const held = [await Client.open(lb.address("web")), await Client.open(lb.address("web"))];
  const before = cpuSeconds(process.pid);
  for (let n = 0; n < 20; n++) {
    const socket = await dial(lb.address("web"));
    expect(await receive(socket)).toMatchObject({ bytes: 0 });
    socket.destroy();
  }
  await sleep(1000);
  expect(cpuSeconds(process.pid) - before).toBeLessThan(0.5);
  expect(lb.stats().frontends.web?.reasons).toEqual({ limit_server: 20 });
  held[0]?.close();
  await until(() => lb.stats().current_connections === 1, "a free place");
  expect((await Client.open(lb.address("web"))).greeting).toMatch(/^[ab]$/);
});

async function exchange(socket: Awaited<ReturnType<typeof dial>>, text: string): Promise<[string]> {
  const heard = new Promise<string>((ok) => socket.once("data", (piece: Buffer) => ok(String(piece))));
  socket.write(text);
  return [await heard];
}
