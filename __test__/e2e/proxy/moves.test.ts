/** A reload moves listeners over each other's addresses: it works, or nothing changes. */
import { once } from "node:events";
import { createServer } from "node:net";
import { expect, test } from "vitest";
import { type Balancer, type ConfigInput, createBalancer } from "../../../ts/index.ts";
import { ask, Client, echoServer } from "../../support/control.ts";
import { dial, freePort } from "../../support/sockets.ts";

type Addresses = { web: string; api?: string; stats?: number };

async function config(server: string): Promise<(at: Addresses) => ConfigInput> {
  return ({ web, api, stats }) => ({
    ...(stats === undefined ? {} : { stats: { port: stats } }),
    frontends: {
      web: { listen_addr: web, backend: "pool" },
      ...(api === undefined ? {} : { api: { listen_addr: api, backend: "pool" } }),
    },
    backends: { pool: { servers: { s1: { addr: server } } } },
  });
}

async function serves(lb: Balancer, frontend: string, host = "127.0.0.1"): Promise<void> {
  const client = await Client.open({ host, port: lb.address(frontend).port });
  expect(client.greeting).toBe("s1");
  client.close();
}

async function refuses(host: string, port: number): Promise<void> {
  await expect(dial({ host, port })).rejects.toThrow("ECONNREFUSED");
}

test.each([1, 2, 3])(
  "a frontend moves between an address, its wildcard and back, again and again, with %i workers",
  async (workers) => {
    await using server = await echoServer("s1");
    const at = await config(server.addr);
    const port = await freePort();
    const places: [string, string, string?][] = [
      [`127.0.0.1:${port}`, "127.0.0.1", "127.0.0.2"],
      [`0.0.0.0:${port}`, "127.0.0.2"],
      [`127.0.0.2:${port}`, "127.0.0.2", "127.0.0.1"],
      [`0.0.0.0:${port}`, "127.0.0.1"],
      [`[::1]:${port}`, "::1", "127.0.0.1"],
      [`[::]:${port}`, "::1"],
      [`[::1]:${port}`, "::1"],
      [`:${port}`, "127.0.0.1", "::1"],
    ];
    const first = at({ web: places[0]?.[0] as string });
    await using lb = await createBalancer({ ...first, proxy: { workers } });
    for (let round = 0; round < 3; round++) {
      for (const [web, served, refused] of places) {
        await lb.update({ ...at({ web }), proxy: { workers } });
        await serves(lb, "web", served);
        if (refused !== undefined) await refuses(refused, port);
      }
    }
    expect(lb.stats().reasons).toEqual({});
  },
);

test("a frontend takes the port that another one leaves, also under another address", async () => {
  await using server = await echoServer("s1");
  const at = await config(server.addr);
  const [a, b, c] = [await freePort(), await freePort(), await freePort()];
  await using lb = await createBalancer(at({ web: `127.0.0.1:${a}`, api: `0.0.0.0:${b}` }));
  await lb.update(at({ web: `127.0.0.1:${b}`, api: `0.0.0.0:${c}` }));
  await serves(lb, "web");
  await serves(lb, "api");
  await refuses("127.0.0.1", a);
  await lb.update(at({ web: `0.0.0.0:${c}`, api: `127.0.0.1:${b}` }));
  await serves(lb, "web");
  await serves(lb, "api");
  expect([lb.address("web").port, lb.address("api").port]).toEqual([c, b]);
});

test("two frontends exchange their ports", async () => {
  await using server = await echoServer("s1");
  const at = await config(server.addr);
  const [a, b] = [await freePort(), await freePort()];
  await using lb = await createBalancer(at({ web: `127.0.0.1:${a}`, api: `0.0.0.0:${b}` }));
  for (let round = 0; round < 4; round++) {
    const [web, api] = round % 2 === 0 ? [b, a] : [a, b];
    await lb.update(at({ web: `127.0.0.1:${web}`, api: `0.0.0.0:${api}` }));
    expect([lb.address("web").port, lb.address("api").port]).toEqual([web, api]);
    await serves(lb, "web");
    await serves(lb, "api");
  }
});

test("the statistics server and a frontend exchange their ports, again and again", async () => {
  await using server = await echoServer("s1");
  const at = await config(server.addr);
  const [a, b] = [await freePort(), await freePort()];
  await using lb = await createBalancer(at({ web: `127.0.0.1:${a}`, stats: b }));
  for (let round = 0; round < 6; round++) {
    const [web, stats] = round % 2 === 0 ? [b, a] : [a, b];
    await lb.update(at({ web: `127.0.0.1:${web}`, stats }));
    await serves(lb, "web");
    expect((await ask({ host: "127.0.0.1", port: stats }, "/stats")).status).toBe(200);
  }
  expect(lb.stats().config_version).toBe(7);
});

test("a move that fails leaves every old listener as it was and says who is in the way", async () => {
  await using server = await echoServer("s1");
  const at = await config(server.addr);
  const [a, b, c] = [await freePort(), await freePort(), await freePort()];
  const foreign = createServer().listen(c, "127.0.0.1");
  await once(foreign, "listening");
  const before = { web: `127.0.0.1:${a}`, stats: b };
  await using lb = await createBalancer(at(before));
  const unchanged = async () => {
    await serves(lb, "web");
    expect(lb.address("web")).toEqual({ host: "127.0.0.1", port: a });
    expect((await ask({ host: "127.0.0.1", port: b }, "/stats")).status).toBe(200);
    await refuses("127.0.0.2", a);
    expect(lb.stats().config_version).toBe(1);
    expect(await lb.update(at(before))).toMatchObject({ result: "unchanged" });
  };
  try {
    // The first two could be had; the last is another's.
    const over = { web: `0.0.0.0:${a}`, stats: b };
    await expect(lb.update(at({ ...over, api: `127.0.0.1:${c}` }))).rejects.toThrow(
      "another process listens there",
    );
    await unchanged();
    await expect(lb.update(at({ web: `127.0.0.1:${b}`, stats: a, api: `0.0.0.0:${c}` }))).rejects.toThrow(
      "another process listens there",
    );
    await unchanged();
    await expect(lb.update(at({ web: `127.0.0.1:${b}`, stats: c }))).rejects.toThrow(
      "another program has this port",
    );
    await unchanged();
  } finally {
    foreign.close();
  }
});

test("an address that a part of this convey keeps is refused in its name", async () => {
  await using server = await echoServer("s1");
  const at = await config(server.addr);
  await using lb = await createBalancer(at({ web: "127.0.0.1:0", stats: 0 }));
  const [web, stats] = [lb.address("web").port, lb.statsAddress?.port];
  await expect(lb.update(at({ web: "127.0.0.1:0", stats: 0, api: `0.0.0.0:${web}` }))).rejects.toThrow(
    'frontend "web" of this convey listens there',
  );
  await expect(lb.update(at({ web: "127.0.0.1:0", stats: 0, api: `127.0.0.1:${stats}` }))).rejects.toThrow(
    "the statistics server of this convey listens there",
  );
  await expect(lb.update(at({ web: "127.0.0.1:0", stats: web as number }))).rejects.toThrow(
    'frontend "web" of this convey listens there',
  );
  await serves(lb, "web");
  expect((await ask({ host: "127.0.0.1", port: stats as number }, "/stats")).status).toBe(200);
});
