/** Explaining in proxy mode: by the library and over HTTP. */
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Balancer, createBalancer } from "../../../ts/index.ts";
import { ask, httpServer, poolConfig, type TestServer } from "../../support/control.ts";
import { until } from "../../support/processes.ts";
import { freePort } from "../../support/sockets.ts";

let servers: TestServer[];
let lb: Balancer;
let web: string;

beforeEach(async () => {
  servers = await Promise.all([httpServer("s1"), httpServer("s2")]);
  const addr = (i: number): string => servers[i]?.addr ?? "";
  lb = await createBalancer({
    ...poolConfig({ s1: { addr: addr(0), weight: 3 }, s2: { addr: addr(1) } }, { stats: { port: 0 } }),
    frontends: { web: { listen_addr: `127.0.0.1:${await freePort()}`, backend: "pool" } },
  });
  const { host, port } = lb.address("web");
  web = `${host}:${port}`;
});
afterEach(async () => {
  await lb.close();
  for (const server of servers) await server.close();
});

const SOURCE = "127.0.0.9:4000";
const url = (query: string): string => `/api/v1/explain?${query}`;

describe("lb.explain()", () => {
  test("knows the port that the kernel chose, after a reload too, and one only while it is listened on", async () => {
    const pool = poolConfig({ s1: { addr: servers[0]?.addr ?? "" } });
    const frontends = (...names: string[]) => ({
      frontends: Object.fromEntries(
        names.map((name) => [name, { listen: ["127.0.0.1:0"], backend: "pool" }]),
      ),
    });
    await using chosen = await createBalancer({ ...pool, ...frontends("one", "two") });
    const at = (name: string) => {
      const { host, port } = chosen.address(name);
      return `${host}:${port}`;
    };
    const two = at("two");
    for (const name of ["one", "two"]) {
      expect(await chosen.explain("tcp", SOURCE, at(name))).toMatchObject({
        frontend: name,
        verdict: "connect",
      });
    }
    await chosen.update({ ...pool, ...frontends("one") });
    expect(await chosen.explain("tcp", SOURCE, at("one"))).toMatchObject({ frontend: "one" });
    expect(await chosen.explain("tcp", SOURCE, two)).toMatchObject({
      frontend: null,
      verdict: "pass not_vip",
    });
  });

  test("names the frontend and the share of every server that is up", async () => {
    const told = await lb.explain("tcp", SOURCE, web);
    expect(told).toMatchObject({ frontend: "web", flow: null, maglev_slot: null, verdict: "connect" });
    const shares = told.steps.filter((step) => step.kind === "share");
    expect(shares).toMatchObject([
      { name: "s1", weight: 3, total: 4, text: expect.stringContaining("weight 3: 75.0 %") },
      { name: "s2", weight: 1, total: 4, text: expect.stringContaining("weight 1: 25.0 %") },
    ]);
  });

  test("goes by weights and drains as they are now", async () => {
    await lb.drain("pool/s1", { deadlineMs: 0 });
    expect((await lb.explain("tcp", SOURCE, web)).server).toMatchObject({ backend: "pool", name: "s2" });
    lb.setWeight("pool/s2", 0);
    expect(await lb.explain("tcp", SOURCE, web)).toMatchObject({ server: null, verdict: "refuse no_server" });
  });

  test("names servers that are down, with what their last check met, before the verdict", async () => {
    await servers[0]?.close();
    await until(() => lb.stats().backends.pool?.server_details.s1?.up === false, "s1 down", 20_000);
    const { steps } = await lb.explain("tcp", SOURCE, web);
    expect(steps.at(-1)).toMatchObject({
      kind: "server_down",
      name: "s1",
      text: expect.stringMatching(/^server "s1" is down: connection refused/),
    });
  });

  test("what no frontend listens on is for nobody", async () => {
    expect(await lb.explain("tcp", SOURCE, "127.0.0.1:1")).toMatchObject({
      frontend: null,
      verdict: "pass not_vip",
    });
    expect(await lb.explain("udp", SOURCE, web)).toMatchObject({ verdict: "pass not_vip" });
  });

  test("refuses what is no flow, and anything once closed", async () => {
    await expect(lb.explain("tcp", "localhost:1", web)).rejects.toMatchObject({ code: "CONFIG_INVALID" });
    await lb.close();
    await expect(lb.explain("tcp", SOURCE, web)).rejects.toMatchObject({ code: "CLOSED" });
  });
});

describe("GET /api/v1/explain", () => {
  test("answers what the library does", async () => {
    const address = lb.statsAddress as { host: string; port: number };
    const answer = await ask(address, url(`protocol=tcp&source=${SOURCE}&destination=${web}`));
    expect(answer.status).toBe(200);
    expect(JSON.parse(answer.body)).toEqual(await lb.explain("tcp", SOURCE, web));
  });

  test.each([
    ["", /protocol, source and destination are needed/],
    [`protocol=tcp&source=${SOURCE}`, /are needed/],
    [`protocol=icmp&source=${SOURCE}&destination=127.0.0.1:1`, /neither tcp nor udp/],
    [`protocol=tcp&source=${SOURCE}&destination=[::1]:1`, /IPv4 and the destination is IPv6/],
  ])("?%s is a bad request", async (query, message) => {
    const answer = await ask(lb.statsAddress as { host: string; port: number }, url(query));
    expect(answer.status).toBe(400);
    expect(JSON.parse(answer.body).error).toMatch(message);
  });
});
