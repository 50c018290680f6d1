/** Where connections to servers start from: addresses of a pool with ports of their own each, or the client's. */
import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, expect, test } from "vitest";
import type { Finding } from "../../../ts/doctor/finding.ts";
import { createBalancer } from "../../../ts/index.ts";
import { poolConfig } from "../../support/control.ts";
import { pool, startConvey } from "../../support/convey.ts";
import { loadgenPath, startServer } from "../../support/loadgen.ts";
import { CONVEY } from "../../support/peers.ts";
import { finish, start, until } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import { address, Row } from "../../support/row.ts";
import { dial, listening } from "../../support/sockets.ts";

// Built here, so that a first build is not charged to a test.
beforeAll(() => loadgenPath(), 300_000);

const TARGET = `${address.front}:8080`;

/** The addresses that established connections to the server come from, one word each, as its kernel has them. */
async function peers(lab: Row, port: number): Promise<string[]> {
  const table = await lab.sh("server", `ss -Htn state established sport = :${port}`);
  return table
    .trim()
    .split("\n")
    .flatMap((line) => /\[?([0-9a-f.:]+?)\]?:\d+\s*$/.exec(line)?.[1] ?? []);
}

const times = (all: readonly string[]): Record<string, number> =>
  Object.fromEntries([...new Set(all)].sort().map((one) => [one, all.filter((it) => it === one).length]));

test("each address of a pool brings all its ports, and one without any is passed over", async (context) => {
  needs(context, { root: true, tools: ["ip", "sysctl", "ethtool", "curl", "ss"] });
  // Twelve ports, of which the statistics server has one.
  await using lab = await Row.create({ balancerPorts: "40000 40011" });
  await lab.sh("balancer", "ip address add 10.77.2.3/24 dev back; ip address add 10.77.2.4/24 dev back");
  const server = await startServer({ prefix: lab.at("server"), listen: `${address.server}:9001` });
  await using _ = server.process;
  const once = ["health_check_interval = 3600", "health_check_fast_interval_ms = 50"];
  await using product = await startConvey(
    pool(
      { s1: server.address },
      { listen: TARGET, backend: [...once, `source = ["${address.back}", "10.77.2.3-10.77.2.4"]`] },
    ),
    lab.at("balancer"),
  );
  const hold = async (connections: number) => {
    const command = [await loadgenPath(), "hold", "--connect", TARGET, "--connections", String(connections)];
    return start(lab.at("client", ...command), { stdin: true });
  };
  // A second after the checks the kernel gives their ports out again.
  await sleep(1500);
  await using first = await hold(33);
  await first.waitFor(/"ready"/);
  expect(times(await peers(lab, 9001))).toEqual({ [address.back]: 11, "10.77.2.3": 11, "10.77.2.4": 11 });

  expect((await (await hold(1)).exited).code, "there is no port left").not.toBe(0);
  expect((await product.stats()).reasons).toMatchObject({ ports_exhausted: 1 });
  expect((await product.stats()).backends.pool?.server_details.s1, "no fault of the server").toMatchObject({
    up: true,
  });
  first.child.stdin?.end();
  await first.exited;
  await until(async () => {
    const again = await hold(1);
    again.child.stdin?.end();
    return (await again.exited).code === 0;
  }, "a connection after the ports came back");
});

test("checks start from the first address of the pool", async () => {
  const sources: (string | undefined)[] = [];
  await using server = await listening((socket) => sources.push(socket.remoteAddress));
  await using lb = await createBalancer(
    poolConfig({ s1: { addr: server.addr } }, { pool: { source: ["127.0.0.9", "127.0.0.10"] } }),
  );
  await until(() => sources.length > 0, "a check");
  expect(sources[0]).toBe("127.0.0.9");
  const seen = new Set<string>();
  for (let n = 0; n < 4; n++) {
    sources.length = 0;
    const client = await dial(lb.address("web"));
    client.end();
    await until(() => sources.length > 0, "the connection");
    for (const source of sources) seen.add(String(source));
  }
  expect([...seen].sort()).toEqual(["127.0.0.10", "127.0.0.9"]);
});

test("checks that ask by HTTP start from there too, and send the PROXY header first", async () => {
  const heard: [string | undefined, string][] = [];
  await using server = await listening((socket) => {
    socket.on("error", () => undefined);
    socket.once("data", (data) => {
      heard.push([socket.remoteAddress, String(data)]);
      socket.end("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
  });
  await using _ = await createBalancer(
    poolConfig(
      { s1: { addr: server.addr } },
      { pool: { source: ["127.0.0.9"], send_proxy: "v1", health_check: { type: "http", path: "/ready" } } },
    ),
  );
  await until(() => heard.length > 0, "a check");
  expect(heard[0]?.[0]).toBe("127.0.0.9");
  expect(heard[0]?.[1]).toMatch(/^PROXY UNKNOWN\r\n(GET \/ready |$)/);
});

test("an address that the host does not have is named at start and at reload, which changes nothing", async () => {
  await using server = await listening((socket) => socket.resume());
  const config = (source: string[]) => poolConfig({ s1: { addr: server.addr } }, { pool: { source } });
  const refusal = /backends\.pool\.source: cannot connect from 203\.0\.113\.77: .*no interface of this host/;
  await expect(createBalancer(config(["127.0.0.9", "203.0.113.77"]))).rejects.toThrow(refusal);
  await using lb = await createBalancer(config(["127.0.0.9"]));
  await expect(lb.update(config(["203.0.113.77"]))).rejects.toThrow(refusal);
  await dial(lb.address("web"));
  await until(() => lb.stats().current_connections === 1, "a connection from the old one");
  const { message } = await lb.update(config(["127.0.0.9", "127.0.0.10"]));
  expect(message).toContain('backends.pool.source ["127.0.0.9"]→["127.0.0.9","127.0.0.10"]');
});

for (const family of ["v4", "v6"] as const) {
  test(`with source = "client" the server sees the client's address: ${family}`, async (context) => {
    needs(context, { root: true, tools: ["ip", "sysctl", "ethtool", "curl", "ss"] });
    await using lab = await Row.create();
    const six = family === "v6";
    const at = six
      ? { client: address.client6, front: `[${address.front6}]:8080`, server: `[${address.server6}]:9001` }
      : { client: address.client, front: TARGET, server: `${address.server}:9001` };
    const ip = six ? "ip -6" : "ip";
    const server = await startServer({ prefix: lab.at("server"), listen: at.server });
    await using _ = server.process;
    await using product = await startConvey(
      pool({ s1: server.address }, { listen: at.front, backend: ['source = "client"'] }),
      lab.at("balancer"),
    );
    const doctor = async () => {
      const words = [process.execPath, CONVEY, "doctor", "-c", product.file, "--json"];
      const { stdout } = await finish(lab.at("balancer", ...words));
      const { findings } = JSON.parse(stdout) as { findings: Finding[] };
      return findings.filter(({ check }) => check === "client_source");
    };
    const [missing] = await doctor();
    expect(missing).toMatchObject({ severity: "warning", subject: "pool/s1" });
    // What the documentation says, too: answers of the server are for this host, whatever address they are sent to.
    expect(missing?.remedy).toBe(
      `${ip} rule add iif back ipproto tcp sport 9001 lookup 100; ${ip} route replace local default dev lo table 100`,
    );
    await lab.sh("balancer", String(missing?.remedy));
    expect(await doctor()).toMatchObject([{ severity: "ok", subject: "pool/s1" }]);
    const command = [await loadgenPath(), "hold", "--connect", at.front, "--connections", "5"];
    await using client = start(lab.at("client", ...command), { stdin: true });
    await client.waitFor(/"ready"/);
    expect(times(await peers(lab, 9001))).toEqual({ [at.client]: 5 });
    expect((await product.stats()).reasons).toEqual({});
  });
}

test('without the privilege source = "client" is refused at start with words', async (context) => {
  needs(context, { root: true });
  const config = poolConfig({ s1: { addr: "127.0.0.1:9" } }, { pool: { source: "client" } });
  const script = `import { createBalancer } from "./dist/index.js"; await createBalancer(${JSON.stringify(config)});`;
  const without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--reuid=65534", "--clear-groups"];
  const done = await finish([...without, process.execPath, "--input-type=module", "-e", script]);
  expect(done.stderr).toContain('backends.pool.source = "client": cannot connect from clients');
  expect(done.stderr).toContain("CAP_NET_ADMIN or CAP_NET_RAW");
});
