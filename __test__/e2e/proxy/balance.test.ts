/** How each method chooses servers, backups, and slow start, with real servers and clients on loopback. */
import { once } from "node:events";
import { connect } from "node:net";
import { describe, expect, test } from "vitest";
import { type Balancer, createBalancer } from "../../../ts/index.ts";
import {
  answers,
  blackHole,
  Client,
  echoServer,
  poolConfig,
  serverStats as server,
  type TestServer,
} from "../../support/control.ts";
import { until } from "../../support/processes.ts";
import { freePort } from "../../support/sockets.ts";

/** Checks so rare and forgiving that only the data plane's own judgement counts. */
const UNCHECKED = {
  health_check_interval: 3600,
  health_check_fast_interval_ms: 3_600_000,
  health_check_fall: 1000,
};

/** Holds `n` connections open, and counts them by server. */
async function hold(lb: Balancer, n: number): Promise<{ counts: Record<string, number>; clients: Client[] }> {
  const counts: Record<string, number> = {};
  const clients: Client[] = [];
  for (let i = 0; i < n; i++) {
    const client = await Client.open(lb.address("web"));
    clients.push(client);
    counts[client.greeting] = (counts[client.greeting] ?? 0) + 1;
  }
  return { counts, clients };
}

/** The server that greets a client of this address, and the client's port. */
async function from(lb: Balancer, localAddress: string): Promise<{ name: string; source: string }> {
  const socket = connect({ ...lb.address("web"), localAddress });
  const [greeting] = (await once(socket, "data")) as [Buffer];
  const source = `${localAddress}:${socket.localPort}`;
  socket.destroy();
  return { name: String(greeting).trim(), source };
}

/** On a port of its own: `explain` goes by what the configuration says. */
const onPort = (port: number) => ({
  frontends: { web: { listen_addr: `127.0.0.1:${port}`, backend: "pool" } },
});

const loopback = (n: number): string => `127.1.${n >> 8}.${1 + (n & 255)}`;

describe("methods", () => {
  test.each([
    ["round_robin", 10, 0],
    // One that has just ended may still be open: the next goes elsewhere.
    ["least_connections", 100, 60],
    ["random_two", 100, 60],
    ["maglev", 100, 25],
  ] as const)(
    "%s gives idle servers connections by weight, and one without weight none",
    async (balance, part, slack) => {
      await using one = await echoServer("one");
      await using two = await echoServer("two");
      await using none = await echoServer("none");
      await using lb = await createBalancer(
        poolConfig(
          {
            one: { addr: one.addr },
            two: { addr: two.addr, weight: 2 },
            none: { addr: none.addr, weight: 0 },
          },
          { pool: { balance } },
        ),
      );
      const got = await answers(lb, 3 * part);
      expect(got.none).toBeUndefined();
      expect(Math.abs((got.one ?? 0) - part), JSON.stringify(got)).toBeLessThanOrEqual(slack);
      expect(lb.stats().backends.pool?.balance).toBe(balance);
    },
  );

  test("least_connections fills up the server that has fewest for its weight", async () => {
    await using one = await echoServer("one");
    await using two = await echoServer("two");
    const servers = { one: { addr: one.addr }, two: { addr: two.addr, weight: 3 } };
    await using lb = await createBalancer(poolConfig(servers, { pool: { balance: "least_connections" } }));
    const { counts, clients } = await hold(lb, 40);
    expect(counts).toEqual({ one: 10, two: 30 });
    const onTwo = clients.filter(({ greeting }) => greeting === "two");
    for (const client of onTwo) client.close();
    await until(() => server(lb, "two").current_connections === 0, "connections to end");
    const more = await hold(lb, 30);
    expect(more.counts, "only those that left are replaced").toEqual({ two: 30 });
    for (const client of [...clients, ...more.clients]) client.close();
  });

  test("random_two keeps servers near each other where connections stay", async () => {
    const names = ["a", "b", "c", "d", "e"];
    const peers = await Promise.all(names.map((name) => echoServer(name)));
    const servers = Object.fromEntries(
      names.map((name, n) => [name, { addr: (peers[n] as TestServer).addr }]),
    );
    await using lb = await createBalancer(poolConfig(servers, { pool: { balance: "random_two" } }));
    const { counts, clients } = await hold(lb, 100);
    for (const name of names)
      expect(Math.abs((counts[name] ?? 0) - 20), JSON.stringify(counts)).toBeLessThan(8);
    for (const client of clients) client.close();
    for (const peer of peers) await peer.close();
  });

  test("source_hash keeps a client at its server, says so before, and moves few when a server leaves", async () => {
    const names = ["a", "b", "c", "d"];
    const peers = await Promise.all(names.map((name) => echoServer(name)));
    const servers = Object.fromEntries(
      names.map((name, n) => [name, { addr: (peers[n] as TestServer).addr }]),
    );
    await using lb = await createBalancer(
      poolConfig(servers, { ...onPort(await freePort()), pool: { balance: "source_hash" } }),
    );
    const { host, port } = lb.address("web");
    const homes = new Map<string, string>();
    for (let n = 0; n < 60; n++) {
      const { name } = await from(lb, loopback(n));
      homes.set(loopback(n), name);
      expect((await from(lb, loopback(n))).name).toBe(name);
      const told = await lb.explain("tcp", `${loopback(n)}:1`, `${host}:${port}`);
      expect(told.server?.name).toBe(name);
    }
    expect(new Set(homes.values())).toEqual(new Set(names));
    lb.setWeight("pool/a", 0);
    let moved = 0;
    for (const [address, home] of homes) {
      const { name } = await from(lb, address);
      expect(name).not.toBe("a");
      if (home !== "a" && name !== home) moved += 1;
    }
    expect(moved).toBeLessThanOrEqual(6);
    lb.setWeight("pool/a", null);
    for (const [address, home] of homes) expect((await from(lb, address)).name).toBe(home);
    for (const peer of peers) await peer.close();
  }, 30_000);

  test("explain names the server that maglev gives a connection", async () => {
    await using a = await echoServer("a");
    await using b = await echoServer("b");
    await using lb = await createBalancer(
      poolConfig(
        { a: { addr: a.addr }, b: { addr: b.addr } },
        { ...onPort(await freePort()), pool: { balance: "maglev" } },
      ),
    );
    const { host, port } = lb.address("web");
    const seen = new Set<string>();
    for (let n = 0; n < 20; n++) {
      const { name, source } = await from(lb, "127.0.0.1");
      seen.add(name);
      const told = await lb.explain("tcp", source, `${host}:${port}`);
      expect(told.server?.name).toBe(name);
      expect(told.steps.map(({ kind }) => kind)).toEqual(["accepts", "balanced", "server", "own_connection"]);
    }
    expect([...seen].sort()).toEqual(["a", "b"]);
  });

  test("a full or refusing server's clients go to others by every method, and nobody is lost", async () => {
    await using good = await echoServer("good");
    await using full = await echoServer("full");
    const bad = `127.0.0.1:${await freePort()}`;
    const servers = {
      good: { addr: good.addr },
      full: { addr: full.addr, max_connections: 1 },
      bad: { addr: bad },
    };
    for (const balance of [
      "round_robin",
      "least_connections",
      "random_two",
      "source_hash",
      "maglev",
    ] as const) {
      await using lb = await createBalancer(poolConfig(servers, { pool: { ...UNCHECKED, balance } }));
      const clients: Client[] = [];
      for (let n = 0; n < 12; n++) clients.push(await Client.open(lb.address("web")));
      const names = clients.map(({ greeting }) => greeting);
      expect(names.filter((name) => name !== "good").length, balance).toBeLessThanOrEqual(1);
      expect(names.filter((name) => name === "good").length, balance).toBeGreaterThanOrEqual(11);
      for (const client of clients) client.close();
    }
  });

  test("a reload changes the method for the next connection and cuts none", async () => {
    await using a = await echoServer("a");
    await using b = await echoServer("b");
    const config = (balance: "round_robin" | "source_hash") =>
      poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }, { pool: { balance } });
    await using lb = await createBalancer(config("round_robin"));
    const client = await Client.open(lb.address("web"));
    const plan = await lb.plan(config("source_hash"));
    expect(plan.changes).toEqual([
      { kind: "changed", path: "backends.pool.balance", from: "round_robin", to: "source_hash" },
    ]);
    await lb.update(config("source_hash"));
    expect(Object.values(await answers(lb, 10))).toEqual([10]);
    expect(await client.echo("still here")).toBe("still here");
    client.close();
  });

  test("plan tells of a backend with a table which share of it would move", async () => {
    const config = (servers: number, balance: "round_robin" | "maglev") =>
      poolConfig(
        Object.fromEntries(
          Array.from({ length: servers }, (_, n) => [`s${n}`, { addr: `127.0.0.1:${n + 1}` }]),
        ),
        { pool: { ...UNCHECKED, balance } },
      );
    await using lb = await createBalancer(config(3, "maglev"));
    const { slots } = await lb.plan(config(4, "maglev"));
    expect(slots).toMatchObject([{ backend: "pool", slots: 65_537 }]);
    expect((slots[0]?.moved ?? 0) / 65_537).toBeCloseTo(0.25, 1);
    await using other = await createBalancer(config(3, "round_robin"));
    expect((await other.plan(config(4, "round_robin"))).slots).toEqual([]);
  });
});

describe("backups", () => {
  test("a backup gets nothing until every other server is drained, full, refusing or down, and nothing after", async () => {
    await using one = await echoServer("one");
    await using spare = await echoServer("spare");
    await using lb = await createBalancer(
      poolConfig(
        { one: { addr: one.addr, max_connections: 1 }, spare: { addr: spare.addr, backup: true } },
        onPort(await freePort()),
      ),
    );
    expect(server(lb, "spare")).toMatchObject({ backup: true, weight: 1, effective_weight: 0 });
    const { host, port } = lb.address("web");
    const told = await lb.explain("tcp", "127.0.0.1:1", `${host}:${port}`);
    expect(told.server?.name).toBe("one");
    const held = await Client.open(lb.address("web"));
    expect(held.greeting).toBe("one");
    expect(await answers(lb, 3), "the other is full").toEqual({ spare: 3 });
    held.close();
    await until(() => server(lb, "one").current_connections === 0, "its place to be free");
    const again = await Client.open(lb.address("web"));
    expect(again.greeting).toBe("one");
    again.close();
    await lb.drain("pool/one", { deadlineMs: 1000 });
    expect(server(lb, "spare").effective_weight).toBe(1);
    expect(await answers(lb, 3), "the other is drained").toEqual({ spare: 3 });
    lb.enable("pool/one");
    await one.close();
    expect(await answers(lb, 1), "the other refuses").toEqual({ spare: 1 });
    await until(() => !server(lb, "one").up, "the other to be down");
    const spared = await lb.explain("tcp", "127.0.0.1:1", `${host}:${port}`);
    expect(spared.steps.map(({ text }) => text).join("\n")).toContain('backup server "spare"');
    expect(await answers(lb, 2)).toEqual({ spare: 2 });
  });

  test("a black hole that is tried in vain leads to the backup", async () => {
    await using hole = await blackHole();
    await using spare = await echoServer("spare");
    await using lb = await createBalancer(
      poolConfig(
        { hole: { addr: hole.addr }, spare: { addr: spare.addr, backup: true } },
        { pool: { ...UNCHECKED, connect_timeout_ms: 300 } },
      ),
    );
    expect(await answers(lb, 1)).toEqual({ spare: 1 });
  });
});

describe("slow start", () => {
  const SLOW = { slow_start_ms: 20_000 };

  test("at the start of the process nobody is in slow start; one that is enabled is, and gets its weight in steps", async () => {
    await using a = await echoServer("a");
    await using b = await echoServer("b");
    await using lb = await createBalancer(
      poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }, { pool: { slow_start_ms: 2000 } }),
    );
    expect(await answers(lb, 10)).toEqual({ a: 5, b: 5 });
    await lb.drain("pool/b", { deadlineMs: 1000 });
    lb.enable("pool/b");
    const seen = new Set<number>();
    await until(() => {
      const { effective_weight } = server(lb, "b");
      seen.add(effective_weight);
      return effective_weight === 1;
    }, "its whole weight");
    const steps = [...seen];
    expect(steps[0]).toBeLessThan(0.5);
    expect(steps.length).toBeGreaterThan(5);
    expect(steps).toEqual(steps.toSorted((x, y) => x - y));
    for (const step of steps) expect(step * 20).toBeCloseTo(Math.round(step * 20), 6);
    expect(await answers(lb, 10)).toEqual({ a: 5, b: 5 });
  });

  test.each([["round_robin"], ["least_connections"], ["random_two"], ["maglev"]] as const)(
    "with %s a server that comes back gets a small share and not all",
    async (balance) => {
      await using a = await echoServer("a");
      await using b = await echoServer("b");
      await using lb = await createBalancer(
        poolConfig(
          { a: { addr: a.addr }, b: { addr: b.addr } },
          { pool: { slow_start_ms: 3_600_000, balance } },
        ),
      );
      await lb.drain("pool/b", { deadlineMs: 1000 });
      const before = await hold(lb, 40);
      lb.enable("pool/b");
      expect(server(lb, "b").effective_weight).toBe(0.05);
      const { counts, clients } = await hold(lb, 42);
      // A twentieth of what the other has.
      expect(counts.b ?? 0, JSON.stringify(counts)).toBeLessThanOrEqual(10);
      for (const client of [...before.clients, ...clients]) client.close();
    },
  );

  test("one that health checks bring up is in slow start, and one that has gone down in it begins anew", async () => {
    await using a = await echoServer("a");
    const port = await freePort();
    let b = await echoServer("b", port);
    await using lb = await createBalancer(
      poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }, { ...onPort(await freePort()), pool: SLOW }),
    );
    for (let round = 0; round < 2; round++) {
      await b.close();
      await until(() => !server(lb, "b").up, "b to be down");
      expect(server(lb, "b").effective_weight).toBe(0);
      b = await echoServer("b", port);
      await until(() => server(lb, "b").up, "b to be up");
      expect(server(lb, "b").effective_weight).toBeLessThanOrEqual(0.2);
      expect(server(lb, "a").effective_weight).toBe(1);
    }
    const { host, port: web } = lb.address("web");
    const told = await lb.explain("tcp", "127.0.0.1:1", `${host}:${web}`);
    expect(told.steps.find((step) => step.kind === "share" && step.name === "b")?.text).toMatch(
      /weight 0\.\d+: \d+\.\d % of new connections/,
    );
    await b.close();
  });

  test("one that is added at run time or gets a weight again is in slow start, and reloads do not begin it anew", async () => {
    await using a = await echoServer("a");
    await using b = await echoServer("b");
    const servers = { a: { addr: a.addr } };
    await using lb = await createBalancer(poolConfig(servers, { pool: SLOW }));
    await lb.addServer("pool", { name: "b", addr: b.addr, weight: 2 });
    expect(server(lb, "b")).toMatchObject({ weight: 2, effective_weight: 0.1 });
    await until(() => server(lb, "b").effective_weight >= 0.2, "a step");
    const reached = server(lb, "b").effective_weight;
    await lb.update(poolConfig(servers, { pool: { ...SLOW, retries: 3 } }));
    expect(server(lb, "b").effective_weight).toBeGreaterThanOrEqual(reached);
    lb.setWeight("pool/b", 0);
    lb.setWeight("pool/b", 10);
    expect(server(lb, "b").effective_weight).toBe(0.5);
    await lb.update(poolConfig(servers, { pool: { slow_start_ms: 0 } }));
    expect(server(lb, "b").effective_weight, "without slow start it has all").toBe(10);
  });
});
