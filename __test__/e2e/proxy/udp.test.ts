/** UDP in proxy mode, through createBalancer(), with real servers and clients. */
import { createSocket, type Socket } from "node:dgram";
import { Resolver } from "node:dns/promises";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { expect, test } from "vitest";
import { type Balancer, type ConfigInput, createBalancer, type Stats } from "../../../ts/index.ts";
import { start, until } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import { freePort } from "../../support/sockets.ts";

interface Named extends AsyncDisposable {
  addr: string;
  /** Ends its TCP listener, by which health checks ask for it. */
  goDown: () => Promise<void>;
}

/** Answers each datagram with its name; health checks find it by TCP on the same port. */
async function named(name: string): Promise<Named> {
  const tcp = createServer((socket) => socket.destroy()).listen(0, "127.0.0.1");
  await once(tcp, "listening");
  const { port } = tcp.address() as AddressInfo;
  const udp = createSocket("udp4");
  udp.on("message", (_, peer) => udp.send(name, peer.port, peer.address));
  udp.bind(port, "127.0.0.1");
  await once(udp, "listening");
  const goDown = async () => {
    if (!tcp.listening) return;
    tcp.close();
    await once(tcp, "close");
  };
  let open = true;
  return {
    addr: `127.0.0.1:${port}`,
    goDown,
    async [Symbol.asyncDispose]() {
      await goDown();
      if (open) udp.close();
      open = false;
    },
  };
}

type Frontend = ConfigInput["frontends"][string];

function config(
  servers: Record<string, { addr: string }>,
  frontend: Partial<Frontend> = {},
  more: Partial<ConfigInput> = {},
): ConfigInput {
  return {
    frontends: { dns: { listen_addr: "127.0.0.1:0", protocol: "udp", backend: "pool", ...frontend } },
    backends: { pool: { health_check_interval: 1, health_check_fast_interval_ms: 50, servers } },
    proxy: { workers: 2 },
    ...more,
  };
}

async function client(to: { host: string; port: number }): Promise<Socket & Disposable> {
  const socket = createSocket("udp4");
  socket.connect(to.port, to.host);
  await once(socket, "connect");
  return Object.assign(socket, { [Symbol.dispose]: () => socket.close() });
}

async function ask(socket: Socket, datagram = "?"): Promise<string> {
  const answer = once(socket, "message");
  socket.send(datagram);
  return String((await answer)[0]);
}

const clientOf = (socket: Socket): string => `127.0.0.1:${socket.address().port}`;

test("names are resolved through a frontend by a real DNS server, and sessions end with their answers", async (context) => {
  needs(context, { tools: ["dnsmasq"] });
  const port = await freePort();
  await using _dnsmasq = start([
    ...[
      "dnsmasq",
      "--keep-in-foreground",
      "--conf-file=/dev/null",
      "--no-resolv",
      "--no-hosts",
      "--user=root",
    ],
    ...["--listen-address=127.0.0.1", "--bind-interfaces", `--port=${port}`, "--pid-file="],
    ...["--address=/convey.test/192.0.2.7", `--txt-record=long.convey.test,${"x".repeat(250)}`],
  ]);
  await using lb = await createBalancer(
    config({ d1: { addr: `127.0.0.1:${port}` } }, { udp_responses: 1, listen_addr: "0.0.0.0:0" }),
  );
  const resolver = new Resolver({ timeout: 500, tries: 20 });
  resolver.setServers([`127.0.0.1:${lb.address("dns").port}`]);
  await until(async () => (await resolver.resolve4("first.convey.test").catch(() => [])).length > 0, "DNS");
  const names = Array.from({ length: 50 }, (_, n) => `n${n}.convey.test`);
  const answers = await Promise.all(names.map((name) => resolver.resolve4(name)));
  expect(answers.flat()).toEqual(names.map(() => "192.0.2.7"));
  expect((await resolver.resolveTxt("long.convey.test"))[0]?.[0]).toHaveLength(250);
  await until(() => lb.stats().current_connections === 0, "sessions to end with their answers");
  expect(lb.stats().total_connections).toBeGreaterThan(1);
  expect(lb.stats().reasons).toEqual({});
});

test("sessions are counted, listed, explained and ended as connections are", async () => {
  await using server = await named("s1");
  const frontend = { listen_addr: `127.0.0.1:${await freePort()}` };
  await using lb = await createBalancer(config({ s1: { addr: server.addr } }, frontend));
  using socket = await client(lb.address("dns"));
  expect(await ask(socket, "hello")).toBe("s1");
  const vip = `127.0.0.1:${lb.address("dns").port}`;
  const flow = await until(
    async () => (await lb.flows({ protocol: "udp" })).flows.find((it) => it.packets === 2),
    "the session",
  );
  expect(flow).toMatchObject({
    ...{ protocol: "udp", client: clientOf(socket), frontend: "dns", vip, state: "half_open" },
    ...{ server: { backend: "pool", name: "s1", addr: server.addr }, bytes_tx: 5, bytes_rx: 2 },
  });
  expect(flow.expires_in_ms).toBeGreaterThan(30_000);
  const explained = await lb.explain("udp", clientOf(socket), vip);
  expect(explained).toMatchObject({ verdict: "connect", server: { backend: "pool", name: "s1" } });
  expect(told(explained)).toContain("half_open");
  const stranger = await lb.explain("udp", "127.0.0.1:1", vip);
  expect(told(stranger)).toContain("round robin");
  const counted = { total_connections: 1, current_connections: 1, bytes_tx: 5, bytes_rx: 2 };
  expect(lb.stats().frontends.dns).toMatchObject(counted);
  expect(serverOf(lb.stats(), "s1")).toMatchObject(counted);
  const named1 = { protocol: "udp", client: clientOf(socket), vip } as const;
  expect(await lb.killFlows(named1)).toEqual({ killed: 1 });
  await until(() => lb.stats().current_connections === 0, "its place to be free");
  expect(await ask(socket)).toBe("s1");
});

test("sessions of a server that health checks take down move to another at their next datagram", async () => {
  await using one = await named("one");
  await using two = await named("two");
  await using lb = await createBalancer(config({ one: { addr: one.addr }, two: { addr: two.addr } }));
  using a = await client(lb.address("dns"));
  using b = await client(lb.address("dns"));
  expect([await ask(a), await ask(b)].sort()).toEqual(["one", "two"]);
  await one.goDown();
  await until(() => serverOf(lb.stats(), "one")?.up === false, "the server to be down", 20_000);
  expect([await ask(a), await ask(b)]).toEqual(["two", "two"]);
  expect(lb.stats().total_connections, "clients that move count once").toBe(2);
});

test("a refused datagram is told as a failed connect, and a change of the keys keeps sessions", async () => {
  await using server = await named("s1");
  await using lb = await createBalancer(config({ s1: { addr: server.addr } }));
  using socket = await client(lb.address("dns"));
  await ask(socket);
  const plan = await lb.plan(config({ s1: { addr: server.addr } }, { udp_idle_timeout_ms: 300 }));
  expect(JSON.stringify(plan)).toContain("udp_idle_timeout_ms");
  await lb.update(config({ s1: { addr: server.addr } }, { udp_idle_timeout_ms: 300 }));
  expect(await ask(socket)).toBe("s1");
  expect(lb.stats().total_connections).toBe(1);
  await until(() => lb.stats().current_connections === 0, "the session to end by the new timeout");
  await server[Symbol.asyncDispose]();
  socket.send("?");
  await until(() => lb.stats().frontends.dns?.reasons.connect_refused === 1, "the refusal");
});

test("the end waits for sessions until its deadline and counts those it cuts", async () => {
  await using server = await named("s1");
  const lb = await createBalancer(config({ s1: { addr: server.addr } }));
  using socket = await client(lb.address("dns"));
  await ask(socket);
  const begun = performance.now();
  const closed = lb.close({ drainMs: 600 });
  expect(await ask(socket), "it goes on meanwhile").toBe("s1");
  await closed;
  expect(performance.now() - begun).toBeGreaterThan(590);
  expect(lb.stats().reasons.drain_deadline).toBe(1);
});

const serverOf = (stats: Stats, name: string) => stats.backends.pool?.server_details[name];

const told = ({ steps }: Awaited<ReturnType<Balancer["explain"]>>) =>
  steps.map(({ text }) => text).join("\n");
