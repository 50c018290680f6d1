/** Servers that are configured by name, over real servers and DNS servers of the tests' own. */
import { describe, expect, test, vi } from "vitest";
import { type Balancer, type ConfigInput, createBalancer } from "../../../ts/index.ts";
import {
  answers,
  ask,
  Client,
  collect,
  poolConfig,
  serverStats,
  type TestServer,
} from "../../support/control.ts";
import { addresses, type DnsStandIn, dnsmasq, dnsServer, srv } from "../../support/dns.ts";
import { needs } from "../../support/requirements.ts";
import { echo, listening } from "../../support/sockets.ts";

const soon = { timeout: 15_000, interval: 20 };

/** Greets with its own address, as the echo servers do with a name. */
async function at(host: string, port = 0): Promise<TestServer> {
  const server = await listening(
    (socket) => {
      socket.write(`${host}\n`);
      echo(socket);
    },
    host,
    port,
  );
  return { ...server, close: async () => await server[Symbol.asyncDispose]() };
}

const resolver = (dns: { address: string }, more: ConfigInput["resolver"] = {}): ConfigInput["resolver"] => ({
  servers: [dns.address],
  min_ttl_ms: 100,
  timeout_ms: 500,
  retries: 1,
  ...more,
});

const has = (dns: DnsStandIn, list: string[], ttl = 0) => {
  dns.zone.set("A app.test", addresses("app.test", list, ttl));
};

const names = (lb: Balancer): string[] => Object.keys(lb.stats().backends.pool?.server_details ?? {}).sort();

test("every address of a name is a server of its own, with the settings of the one that has the name", async () => {
  await using dns = await dnsServer();
  await using a = await at("127.0.0.2");
  await using _b = await at("127.0.0.3", a.port);
  has(dns, ["127.0.0.3", "127.0.0.2"]);
  await using lb = await createBalancer(
    poolConfig({ web: { addr: `App.Test.:${a.port}`, weight: 2 } }, { resolver: resolver(dns) }),
  );
  expect(await answers(lb, 4)).toEqual({ "127.0.0.2": 2, "127.0.0.3": 2 });
  expect(names(lb)).toEqual([`web@127.0.0.2:${a.port}`, `web@127.0.0.3:${a.port}`]);
  expect(serverStats(lb, `web@127.0.0.2:${a.port}`)).toMatchObject({
    addr: `127.0.0.2:${a.port}`,
    weight: 2,
    origin: "file",
  });
  expect(lb.config.backends.pool?.servers.web?.addr).toBe(`app.test:${a.port}`);
});

test("an address that comes is used, one that goes keeps its connections, one that stays its state", async () => {
  await using dns = await dnsServer();
  await using a = await at("127.0.0.2");
  await using _b = await at("127.0.0.3", a.port);
  await using _c = await at("127.0.0.4", a.port);
  has(dns, ["127.0.0.2", "127.0.0.3"]);
  await using lb = await createBalancer(
    poolConfig({ web: { addr: `app.test:${a.port}` } }, { resolver: resolver(dns) }),
  );
  const seen = collect(lb);
  const clients = [await Client.open(lb.address("web")), await Client.open(lb.address("web"))];
  const stays = `web@127.0.0.3:${a.port}`;
  lb.setWeight(`pool/${stays}`, 3);
  const before = serverStats(lb, stays).total_connections;
  has(dns, ["127.0.0.4", "127.0.0.3"]);
  await vi.waitFor(() => expect(names(lb)).toEqual([stays, `web@127.0.0.4:${a.port}`]), soon);
  expect(await answers(lb, 4)).toEqual({ "127.0.0.3": 3, "127.0.0.4": 1 });
  expect(serverStats(lb, stays).total_connections).toBe((before ?? 0) + 3);
  for (const client of clients) {
    expect(await client.echo("on")).toBe("on");
    client.close();
  }
  expect(seen.find(({ type }) => type === "resolve")).toMatchObject({
    backend: "pool",
    server: "web",
    name: `app.test:${a.port}`,
    state: "resolved",
    addresses: [`127.0.0.3:${a.port}`, `127.0.0.4:${a.port}`],
    added: [`127.0.0.4:${a.port}`],
    removed: [`127.0.0.2:${a.port}`],
    cause: "",
  });
  expect(lb.stats().config_version).toBe(1);
});

test("a name that cannot be resolved at start is a server that is down, which is said, until it can", async () => {
  await using dns = await dnsServer();
  await using a = await at("127.0.0.2");
  const lines: string[] = [];
  const log = (_: object, message: string) => void lines.push(message);
  const free = await at("127.0.0.1");
  await free.close();
  const config = poolConfig(
    { web: { addr: `app.test:${a.port}` } },
    { resolver: resolver(dns, { max_ttl_ms: 200 }) },
  );
  config.frontends = { web: { listen_addr: free.addr, backend: "pool" } };
  await using lb = await createBalancer(config, {
    logger: { info: log, warn: log, error: log } as never,
  });
  const cause = `app.test:${a.port} has no address: no such name (NXDOMAIN)`;
  expect(serverStats(lb, "web")).toMatchObject({ up: false, weight: 0, last_check: { ok: false, cause } });
  expect(lines).toContainEqual(`server pool/web (app.test:${a.port}) has no address and is down; ${cause}`);
  expect(await answers(lb, 1)).toEqual({ nobody: 1 });
  const said = await lb.explain("tcp", "127.0.0.1:1", free.addr);
  expect(JSON.stringify(said)).toContain("NXDOMAIN");
  has(dns, ["127.0.0.2"]);
  await vi.waitFor(() => expect(names(lb)).toEqual([`web@127.0.0.2:${a.port}`]), soon);
  expect(await answers(lb, 1)).toEqual({ "127.0.0.2": 1 });
});

test("a DNS server that fails keeps the last good addresses; one that says there are none, for the hold time", async () => {
  await using dns = await dnsServer();
  await using a = await at("127.0.0.2");
  has(dns, ["127.0.0.2"]);
  await using lb = await createBalancer(
    poolConfig(
      { web: { addr: `app.test:${a.port}` } },
      { resolver: resolver(dns, { max_ttl_ms: 200, hold_ms: 700 }) },
    ),
  );
  const seen = collect(lb);
  const states = () => seen.flatMap((event) => (event.type === "resolve" ? [event.state] : []));
  dns.mood.rcode = 2;
  await vi.waitFor(() => expect(states()).toEqual(["failed"]), soon);
  const asked = dns.asked.length;
  await vi.waitFor(() => expect(dns.asked.length).toBeGreaterThan(asked + 12), soon);
  expect(await answers(lb, 1)).toEqual({ "127.0.0.2": 1 });
  dns.mood.rcode = 3;
  await vi.waitFor(() => expect(states()).toEqual(["failed", "none"]), soon);
  expect(await answers(lb, 1)).toEqual({ "127.0.0.2": 1 });
  await vi.waitFor(() => expect(names(lb)).toEqual(["web"]), soon);
  expect(states()).toEqual(["failed", "none", "none"]);
  delete dns.mood.rcode;
  await vi.waitFor(() => expect(states().at(-1)).toBe("resolved"), soon);
  expect(await answers(lb, 1)).toEqual({ "127.0.0.2": 1 });
});

test("with resolve = first one address is the server, which stays while the name has it", async () => {
  await using dns = await dnsServer();
  await using a = await at("127.0.0.3");
  await using _b = await at("127.0.0.2", a.port);
  has(dns, ["127.0.0.3"]);
  await using lb = await createBalancer(
    poolConfig(
      { web: { addr: `app.test:${a.port}`, resolve: "first" } as never },
      { resolver: resolver(dns) },
    ),
  );
  expect([names(lb), await answers(lb, 2)]).toEqual([["web"], { "127.0.0.3": 2 }]);
  has(dns, ["127.0.0.2", "127.0.0.3"]);
  const asked = dns.asked.length;
  await vi.waitFor(() => expect(dns.asked.length).toBeGreaterThan(asked + 4), soon);
  expect(serverStats(lb, "web").addr).toBe(`127.0.0.3:${a.port}`);
  has(dns, ["127.0.0.2"]);
  await vi.waitFor(() => expect(serverStats(lb, "web").addr).toBe(`127.0.0.2:${a.port}`), soon);
  expect(await answers(lb, 2)).toEqual({ "127.0.0.2": 2 });
  expect(serverStats(lb, "web").total_connections).toBe(4);
});

test("SRV records tell ports and weights; those of another than the best priority are backups", async () => {
  await using dns = await dnsServer();
  await using a = await at("127.0.0.2");
  await using b = await at("127.0.0.3");
  const name = "_http._tcp.app.test";
  dns.zone.set(`SRV ${name}`, [
    srv(name, "a.test", a.port, 1, 30),
    srv(name, "b.test", b.port, 1, 10),
    srv(name, "c.test", 9, 2, 10),
  ]);
  for (const [host, ip] of [
    ["a.test", "127.0.0.2"],
    ["b.test", "127.0.0.3"],
    ["c.test", "127.0.0.4"],
  ] as const) {
    dns.zone.set(`A ${host}`, addresses(host, [ip]));
  }
  await using lb = await createBalancer(poolConfig({ web: { addr: name } }, { resolver: resolver(dns) }));
  expect(names(lb)).toEqual([`web@127.0.0.2:${a.port}`, `web@127.0.0.3:${b.port}`, "web@127.0.0.4:9"]);
  expect(names(lb).map((name) => serverStats(lb, name).backup)).toEqual([false, false, true]);
  expect(await answers(lb, 4)).toEqual({ "127.0.0.2": 3, "127.0.0.3": 1 });
});

test("a server that is found down is asked for anew at once, whatever the TTL", async () => {
  await using dns = await dnsServer();
  await using a = await at("127.0.0.2");
  await using _b = await at("127.0.0.3", a.port);
  has(dns, ["127.0.0.2"], 3600);
  await using lb = await createBalancer(
    poolConfig(
      { web: { addr: `app.test:${a.port}` } },
      { resolver: resolver(dns, { max_ttl_ms: 3_600_000 }), pool: { health_check_fall: 1 } },
    ),
  );
  expect(await answers(lb, 1)).toEqual({ "127.0.0.2": 1 });
  has(dns, ["127.0.0.3"], 3600);
  await a.close();
  await vi.waitFor(async () => expect(await answers(lb, 1)).toEqual({ "127.0.0.3": 1 }), soon);
});

test("a reload names the server, not its addresses, and a name may come, change and go", async () => {
  await using dns = await dnsServer();
  await using a = await at("127.0.0.2");
  has(dns, ["127.0.0.2"]);
  const with_ = (servers: Parameters<typeof poolConfig>[0]) =>
    poolConfig(servers, { resolver: resolver(dns) });
  await using lb = await createBalancer(with_({ plain: { addr: a.addr.replace("127.0.0.1", "127.0.0.2") } }));
  const named = with_({ web: { addr: `app.test:${a.port}` } });
  expect((await lb.plan(named)).changes).toEqual([
    { kind: "added", what: "server", name: "pool/web" },
    { kind: "removed", what: "server", name: "pool/plain" },
  ]);
  expect((await lb.update(named)).message).toBe(
    "the new configuration is in service: +1 server pool/web, −1 server pool/plain",
  );
  expect(await answers(lb, 1)).toEqual({ "127.0.0.2": 1 });
  const client = await Client.open(lb.address("web"));
  const gone = await lb.plan(with_({}));
  expect(gone.servers).toEqual([
    { name: "pool/web", address: `app.test:${a.port}`, change: "removed", current_connections: 1 },
  ]);
  client.close();
  const asked = dns.asked.length;
  await lb.update(with_({ plain: { addr: a.addr } }));
  expect(names(lb)).toEqual(["plain"]);
  await new Promise((resolve) => setTimeout(resolve, 400));
  expect(dns.asked.length).toBeLessThanOrEqual(asked + 2);
});

test("changes at run time take the name with all its addresses; an address alone can be drained, not removed", async () => {
  await using dns = await dnsServer();
  await using a = await at("127.0.0.2");
  await using _b = await at("127.0.0.3", a.port);
  has(dns, ["127.0.0.2", "127.0.0.3"]);
  await using lb = await createBalancer(poolConfig({}, { resolver: resolver(dns) }));
  await lb.addServer("pool", { name: "web", addr: `app.test:${a.port}` });
  const one = `web@127.0.0.2:${a.port}`;
  expect(serverStats(lb, one).origin).toBe("runtime");
  await expect(lb.removeServer(`pool/${one}`)).rejects.toMatchObject({ code: "CONFIG_INVALID" });
  expect(await lb.drain(`pool/${one}`)).toEqual({ drained: true, connections: 0 });
  expect(await answers(lb, 2)).toEqual({ "127.0.0.3": 2 });
  expect(await lb.drain("pool/web", { deadlineMs: 5000 })).toEqual({ drained: true, connections: 0 });
  expect(await answers(lb, 1)).toEqual({ nobody: 1 });
  lb.enable("pool/web");
  expect(await answers(lb, 2)).toEqual({ "127.0.0.2": 1, "127.0.0.3": 1 });
  await lb.removeServer("pool/web");
  expect(names(lb)).toEqual([]);
});

test("an address that leads back to a frontend is left out, and said", async () => {
  await using dns = await dnsServer();
  await using a = await at("127.0.0.2");
  has(dns, ["127.0.0.1", "127.0.0.2"]);
  const config = poolConfig({ web: { addr: `app.test:${a.port}` } }, { resolver: resolver(dns) });
  config.frontends = { web: { listen_addr: `127.0.0.1:${a.port}`, backend: "pool" } };
  await using lb = await createBalancer(config);
  expect(names(lb)).toEqual([`web@127.0.0.2:${a.port}`]);
});

test("the API, its list and metrics take the names that addresses have", async () => {
  await using dns = await dnsServer();
  await using a = await at("127.0.0.2");
  has(dns, ["127.0.0.2"]);
  await using lb = await createBalancer(
    poolConfig(
      { web: { addr: `app.test:${a.port}` }, none: { addr: "none.test:1" } },
      { resolver: resolver(dns), stats: { port: 0 } },
    ),
  );
  const api = lb.statsAddress as { host: string; port: number };
  const name = `web@127.0.0.2:${a.port}`;
  const path = `/api/v1/servers/pool/${encodeURIComponent(name)}`;
  expect(JSON.parse((await ask(api, path)).body)).toMatchObject({
    name,
    addr: `127.0.0.2:${a.port}`,
    up: true,
  });
  void lb.server(`pool/${name}`).drain();
  expect(serverStats(lb, name).draining).toBe(true);
  const metrics = (await ask(api, "/metrics")).body;
  expect(metrics).toContain(`server="${name}"`);
  expect(metrics).toMatch(/convey_backend_server_up\{[^}]*server="none"[^}]*\} 0/);
});

test("localhost needs no DNS server", async () => {
  await using a = await at("127.0.0.1");
  await using lb = await createBalancer(
    poolConfig({ web: { addr: `localhost:${a.port}` } }, { resolver: { servers: ["127.0.0.1:1"] } }),
  );
  expect(names(lb)).toContain(`web@127.0.0.1:${a.port}`);
});

describe("dnsmasq", () => {
  test("addresses and SRV records of a real DNS server are followed as they change", async (context) => {
    needs(context, { tools: ["dnsmasq"] });
    await using a = await at("127.0.0.2");
    await using _b = await at("127.0.0.3", a.port);
    await using dns = await dnsmasq("127.0.0.2 app.test\n", [
      `--srv-host=_http._tcp.app.test,app.test,${a.port},0,5`,
    ]);
    await using lb = await createBalancer(
      poolConfig(
        {
          web: { addr: `app.test:${a.port}` },
          service: { addr: "_http._tcp.app.test" },
          none: { addr: "no.test:1" },
        },
        { resolver: resolver(dns, { max_ttl_ms: 200 }) },
      ),
    );
    const both = (ip: string) => [`service@${ip}:${a.port}`, `web@${ip}:${a.port}`];
    expect(names(lb)).toEqual(["none", ...both("127.0.0.2")]);
    expect(serverStats(lb, "none").last_check?.cause).toContain("NXDOMAIN");
    expect(serverStats(lb, both("127.0.0.2")[0] as string).weight).toBe(5);
    dns.write("127.0.0.3 app.test\n");
    await vi.waitFor(() => expect(names(lb)).toEqual(["none", ...both("127.0.0.3")]), soon);
    expect(await answers(lb, 6)).toEqual({ "127.0.0.3": 6 });
    await dns.running.stop();
    expect(await answers(lb, 2)).toEqual({ "127.0.0.3": 2 });
  });
});
