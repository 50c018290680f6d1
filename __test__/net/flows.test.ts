/** The live flow table against real connections: what it says of them, and what becomes of one that is ended. */
import { describe, expect, test } from "vitest";
import { type Running, start, until } from "../support/processes.ts";
import { Asked } from "./lab/asked.ts";
import { CLIENT, onSegment, SERVERS, type Segment, VIPS } from "./lab/segment.ts";

const [VIP] = VIPS;
const REQUEST = "GET / HTTP/1.1\r\nHost: vip\r\n\r\n";

function configuration(servers: readonly string[], passthrough: object = {}): object {
  return {
    mode: "passthrough",
    frontends: { web: { listen_addr: ":80", backend: "app" } },
    backends: { app: { servers: Object.fromEntries(servers.map((ip) => [ip, { addr: `${ip}:80` }])) } },
    passthrough: { workers: 2, ...passthrough },
  };
}

describe("the live flow table", () => {
  let segment: Segment;
  onSegment(["ss", "socat"], (standing) => {
    segment = standing;
  });

  /** A connection that stays open. */
  function open(port: number): Running {
    const address = `TCP:${VIP}:80,sourceport=${port},reuseaddr`;
    return start(segment.at("client", "socat", "-d", "-t5", "-", address), { stdin: true });
  }

  /** Which server answers on it. */
  async function ask(connection: Running): Promise<string> {
    connection.stdout = "";
    connection.child.stdin?.write(REQUEST);
    const [, server = ""] = await connection.waitFor(/\r\n(10\.0\.0\.1[1-4]) 10\.0\.0\./);
    return server;
  }

  test("a connection is listed with the server it is at and the NAT port that the server sees", async () => {
    await using balancer = await Asked.start(segment, configuration(SERVERS));
    const ports = [5201, 5202, 5203, 5204];
    const connections = ports.map(open);
    try {
      for (const [i, connection] of connections.entries()) {
        const server = await ask(connection);
        const client = `${CLIENT}:${ports[i]}`;
        const [flow, ...others] = await balancer.allFlows({ client });
        expect(others).toEqual([]);
        expect(flow).toMatchObject({
          ...{ protocol: "tcp", client, frontend: "web", vip: `${VIP}:80`, state: "established" },
          server: { backend: "app", name: server, addr: `${server}:80` },
          ...{ age_ms: null, bytes_tx: null, bytes_rx: null, packets: null },
        });
        expect(flow?.idle_ms).toBeLessThan(30_000);
        expect(flow?.expires_in_ms).toBeGreaterThan(60_000);
        const seen = await segment.sh(server as Parameters<Segment["sh"]>[0], "ss -Htn state established");
        expect(seen.split(/\s+/), "the server sees that port").toContain(flow?.nat);
      }
      expect(await balancer.allFlows({ client: `${CLIENT}/24`, state: "established" })).toHaveLength(4);
      expect(await balancer.allFlows({ vip: VIPS[1] })).toEqual([]);
    } finally {
      for (const connection of connections) await connection[Symbol.asyncDispose]();
    }
  });

  test("ending a connection frees its NAT port, resets it with its next packet, and lets others go on", async () => {
    const server = SERVERS[0];
    // A port for each of two connections with the one server.
    const scarce = { workers: 1, port_range: "40000-40001" };
    await using balancer = await Asked.start(segment, configuration([server], scarce));
    await using one = open(5301);
    await using other = open(5302);
    for (const connection of [one, other]) expect(await ask(connection)).toBe(server);
    await expect(segment.ask(VIP, 5303), "no port is left").rejects.toThrow();

    const [flow] = await balancer.allFlows({ client: `${CLIENT}:5301` });
    const named = { protocol: "tcp", client: `${CLIENT}:5301`, vip: `${VIP}:80` } as const;
    expect(await balancer.killFlows(named)).toEqual({ killed: 1 });
    expect(await balancer.killFlows(named), "it ends once").toEqual({ killed: 0 });
    expect(await balancer.allFlows({ client: `${CLIENT}:5301` })).toEqual([]);

    await using third = open(5304);
    expect(await ask(third)).toBe(server);
    const [successor] = await balancer.allFlows({ client: `${CLIENT}:5304` });
    expect(successor?.nat, "it has the port that was freed").toBe(flow?.nat);
    expect(await ask(other)).toBe(server);

    one.child.stdin?.write(REQUEST);
    await until(
      () => /reset by peer/i.test(one.stderr),
      "the reset",
      10_000,
      () => one.output(),
    );
    expect(await ask(third), "the old server end's packets do not reach it").toBe(server);
    expect(await balancer.killFlows({ all: true, state: "established" })).toEqual({ killed: 2 });
  });

  test("more than one flow is ended only when that is said, and one that is not there by nobody", async () => {
    await using balancer = await Asked.start(segment, configuration(SERVERS));
    await using one = open(5401);
    await ask(one);
    await expect(balancer.killFlows({ client: CLIENT })).rejects.toThrow(/may be more than one flow/);
    const stranger = { protocol: "tcp", client: `${CLIENT}:1`, vip: `${VIP}:80` } as const;
    expect(await balancer.killFlows(stranger)).toEqual({ killed: 0 });
    await ask(one);
  });

  test("watched live, the next connection's decision is told, and to that server it really goes", async () => {
    await using balancer = await Asked.start(segment, configuration(SERVERS));
    const filter = { client: `${CLIENT}:5501`, vip: `${VIP}:80` };
    const live = balancer.explainLive(filter, { count: 4 });
    // Asked and answered after it: the watch stands.
    await balancer.flows();
    await using other = open(5502);
    await using one = open(5501);
    await ask(other);
    const server = await ask(one);
    const [flow] = await balancer.allFlows({ client: `${CLIENT}:5501` });
    const told = await live;
    expect(told).toHaveLength(4);
    const [syn, ...later] = told.map((it) => it.explanation);
    expect(syn).toMatchObject({
      ...{ protocol: "tcp", source: `${CLIENT}:5501`, destination: `${VIP}:80`, frontend: "web", flow: null },
      ...{ verdict: "forward", direction: "from_client" },
      server: { name: server, addr: `${server}:80` },
      rewritten: { source: flow?.nat, destination: `${server}:80` },
    });
    expect(syn?.maglev_slot).toBeTypeOf("number");
    expect(later[0], "the answer comes back the same way").toMatchObject({
      ...{ source: `${server}:80`, destination: flow?.nat, direction: "from_server" },
      rewritten: { source: `${VIP}:80`, destination: `${CLIENT}:5501` },
    });
    expect(Math.abs(Date.now() - Date.parse(told[0]?.at ?? ""))).toBeLessThan(60_000);
    expect(told.every((it) => it.lost === 0)).toBe(true);
  });
});
