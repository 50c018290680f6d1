/** Clients that wait: for a place at a server, and for a server that restarts. */
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { createBalancer } from "../../../ts/index.ts";
import { ask, Client, echoServer, poolConfig } from "../../support/control.ts";
import { folder, nginxFiles } from "../../support/peers.ts";
import { start, until } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import { dial, freePort, receive } from "../../support/sockets.ts";

test("a single nginx that restarts under load loses no client within retry_timeout_ms", async (context) => {
  needs(context, { tools: ["nginx"] });
  const port = await freePort();
  const command = nginxFiles(`127.0.0.1:${port}`, folder("root"), ['add_header X-Served "yes";']);
  const serves = async () => await ask({ host: "127.0.0.1", port }, "/").catch(() => undefined);
  await using lb = await createBalancer(
    poolConfig({ only: { addr: `127.0.0.1:${port}` } }, { pool: { retry_timeout_ms: 60_000 } }),
  );
  let loading = true;
  let served = 0;
  const failures: unknown[] = [];
  const client = async () => {
    while (loading) {
      await ask(lb.address("web"), "/").then(
        () => {
          served += 1;
        },
        (error: unknown) => failures.push(error),
      );
    }
  };
  const clients = Array.from({ length: 8 }, client);
  for (let restart = 0; restart < 4; restart++) {
    const before = served;
    const nginx = start(command);
    try {
      await until(serves, "nginx to answer", 20_000);
      await until(() => served >= before + 50, "clients to be served", 30_000);
    } finally {
      nginx.child.kill("SIGQUIT");
      await nginx.exited;
    }
    // Longer than checks take to hold it for down.
    await sleep(restart % 2 === 0 ? 50 : 1000);
  }
  loading = false;
  await using _last = start(command);
  await Promise.all(clients);
  const { reasons } = lb.stats();
  // nginx resets what its kernel has accepted for it and it has not: no balancer can try that again.
  expect(failures.length).toBe(reasons.server_reset ?? 0);
  expect([reasons.retries_exhausted, reasons.no_server, reasons.client_reset]).toEqual([
    undefined,
    undefined,
    undefined,
  ]);
  expect(reasons.connect_refused).toBeGreaterThan(0);
}, 120_000);

test("clients beyond max_connections wait in order, are counted, and are refused when the queue is full", async () => {
  await using server = await echoServer("one");
  // Port 0 is no address to explain.
  const frontends = { web: { listen_addr: `127.0.0.1:${await freePort()}`, backend: "pool" } };
  await using lb = await createBalancer(
    poolConfig(
      { one: { addr: server.addr } },
      {
        frontends,
        pool: { max_connections: 1, queue: 2, queue_timeout_ms: 60_000, health_check_interval: 3600 },
      },
    ),
  );
  const address = lb.address("web");
  const asked = async () => await lb.explain("tcp", "127.0.0.9:1", `${address.host}:${address.port}`);
  const queue = () => lb.stats().backends.pool?.queue;
  expect((await asked()).verdict).toBe("connect");
  const first = await Client.open(address);
  expect(first.greeting).toBe("one");
  const waiting = [];
  for (const n of [1, 2]) {
    const { verdict, steps } = await asked();
    expect(verdict).toBe("wait");
    expect(steps.at(-1)?.text).toBe(
      `it waits in the queue of backend "pool", where ${n - 1} of 2 wait already`,
    );
    waiting.push(Client.open(address));
    await until(() => queue()?.waiting === n, `${n} to wait`);
  }
  expect((await asked()).verdict).toBe("refuse queue_full");
  expect(await receive(await dial(address))).toMatchObject({ bytes: 0 });
  await until(() => lb.stats().reasons.queue_full === 1, "the refusal to be counted");
  expect(queue()).toEqual({ waiting: 2, total: 2, timed_out: 0, refused: 1 });
  const metrics = await lb.metrics();
  for (const line of [
    'convey_backend_limit_connections{backend="pool"} 1',
    'convey_backend_limit_queue{backend="pool"} 2',
    'convey_backend_queue_connections{backend="pool"} 2',
    'convey_backend_queued_connections_total{backend="pool"} 2',
    'convey_backend_queue_failures_total{reason="queue_full",backend="pool"} 1',
  ]) {
    expect(metrics).toContain(line);
  }
  // A reload that raises the limit serves the first of them.
  const { config } = lb;
  await lb.update({
    ...config,
    backends: { pool: { ...config.backends.pool, max_connections: 2 } },
  } as never);
  await until(() => queue()?.waiting === 1, "the first to be served");
  expect((await waiting[0])?.greeting).toBe("one");
  first.close();
  expect((await waiting[1])?.greeting).toBe("one");
  await until(() => queue()?.waiting === 0, "nobody to wait");
});

test("a server at its own limit makes clients wait, and one that is added serves them", async () => {
  await using one = await echoServer("one");
  await using two = await echoServer("two");
  await using lb = await createBalancer({
    frontends: { web: { listen_addr: "127.0.0.1:0", backend: "pool" } },
    backends: {
      pool: { queue: 5, queue_timeout_ms: 60_000, servers: { one: { addr: one.addr, max_connections: 1 } } },
    },
  });
  const first = await Client.open(lb.address("web"));
  const second = Client.open(lb.address("web"));
  await until(() => lb.stats().backends.pool?.queue?.waiting === 1, "the second to wait");
  await lb.addServer("pool", { name: "two", addr: two.addr });
  expect((await second).greeting).toBe("two");
  first.close();
});
