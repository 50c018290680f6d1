/** Who the client is, told by and to HAProxy and nginx. */
import { once } from "node:events";
import { connect } from "node:net";
import { expect, test } from "vitest";
import { type Balancer, type ConfigInput, createBalancer } from "../../../ts/index.ts";
import { poolConfig, serverStats } from "../../support/control.ts";
import { until } from "../../support/processes.ts";
import {
  haproxyPeer,
  haproxyTold,
  nginxTelling,
  nginxTold,
  type Peer,
} from "../../support/proxy-protocol-peers.ts";
import { needs } from "../../support/requirements.ts";
import { dial, echo, gone, listening } from "../../support/sockets.ts";

const ACCEPTING = { listen_addr: "127.0.0.1:0", backend: "pool", accept_proxy: true } as const;

/** What a server that answers with what it was told says to a client, whose port is the other half. */
async function told(at: { host: string; port: number }): Promise<{ body: string; client: string }> {
  const socket = connect({ host: at.host, port: at.port });
  await once(socket, "connect");
  const client = `127.0.0.1:${socket.localPort}`;
  socket.end("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  let answer = "";
  for await (const piece of socket.setEncoding("utf8")) answer += piece;
  return { body: answer.slice(answer.indexOf("\r\n\r\n") + 4).trim(), client };
}

async function balancer(
  server: { addr: string },
  pool: NonNullable<Parameters<typeof poolConfig>[1]>["pool"],
  frontend?: ConfigInput["frontends"][string],
): Promise<Balancer> {
  return createBalancer(
    poolConfig(
      { s1: { addr: server.addr } },
      { pool: { ...pool }, ...(frontend && { frontends: { web: frontend } }) },
    ),
  );
}

for (const version of ["v1", "v2"] as const) {
  test(`HAProxy and nginx as servers hear who the client is, and checks leave them in peace: ${version}`, async (context) => {
    needs(context, { tools: ["haproxy", "nginx"] });
    for (const make of [() => haproxyTold(), nginxTold]) {
      await using server: Peer = await make();
      await using lb = await balancer(server, { send_proxy: version, health_check_interval: 1 });
      const web = lb.address("web");
      const { body, client } = await told(web);
      expect(body).toBe(`${client} 127.0.0.1:${web.port}`);
      await until(() => serverStats(lb, "s1").last_check?.ok, "a check");
      expect(serverStats(lb, "s1").up).toBe(true);
      expect(server.process.output()).not.toMatch(/broken header|PROXY protocol header|PROXYv2/i);
    }
  });
}

test("a server's own send_proxy wins over its backend's, and reload changes it for new connections", async (context) => {
  needs(context, { tools: ["haproxy"] });
  await using server = await haproxyTold();
  const config = (own: "off" | "v2") =>
    ({
      ...poolConfig({}),
      backends: { pool: { send_proxy: "v1", servers: { s1: { addr: server.addr, send_proxy: own } } } },
    }) as ConfigInput;
  await using lb = await createBalancer(config("off"));
  // Without a header HAProxy closes.
  expect((await told(lb.address("web")).catch(() => ({ body: "" }))).body).toBe("");
  const { message } = await lb.update(config("v2"));
  expect(message).toContain("send_proxy pool/s1 off→v2");
  await until(async () => {
    const { body, client } = await told(lb.address("web")).catch(() => ({ body: "", client: "none" }));
    return body.startsWith(client);
  }, "the header");
});

for (const words of ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"]) {
  test(`the client that HAProxy in front tells of is the client: ${words}`, async (context) => {
    needs(context, { tools: ["haproxy"] });
    await using server = await listening(echo);
    await using lb = await balancer(server, {}, { ...ACCEPTING, proxy_trusted: ["127.0.0.0/8"] });
    const { port } = lb.address("web");
    await using front = await haproxyPeer("", [
      "mode tcp",
      "unique-id-format %{+X}o%ci%cp",
      // Its checks speak the protocol, too: UNKNOWN and LOCAL.
      `server convey 127.0.0.1:${port} ${words} check inter 100`,
    ]);
    const client = await dial({ host: "127.0.0.1", port: front.port });
    client.write("hello");
    expect(String((await once(client, "data"))[0])).toBe("hello");
    const name = `127.0.0.1:${client.localPort}`;
    const { flows } = await lb.flows({ client: name });
    expect(flows.map((flow) => flow.client)).toEqual([name]);
    await until(() => (lb.stats().total_connections ?? 0) >= 3, "checks");
    const wrong = Object.entries(lb.stats().reasons).filter(([reason]) => reason.startsWith("proxy_"));
    expect(wrong.filter(([, count]) => count > 0)).toEqual([]);
    client.destroy();
  });
}

test("the client that nginx in front tells of is the client", async (context) => {
  needs(context, { tools: ["nginx", "nginx-stream"] });
  await using server = await listening(echo);
  await using lb = await balancer(server, {}, { ...ACCEPTING, proxy_trusted: ["127.0.0.1"] });
  await using front = await nginxTelling(`127.0.0.1:${lb.address("web").port}`);
  const client = await dial({ host: "127.0.0.1", port: front.port });
  client.write("hello");
  expect(String((await once(client, "data"))[0])).toBe("hello");
  const { flows } = await lb.flows();
  expect(flows.map((flow) => flow.client)).toContain(`127.0.0.1:${client.localPort}`);
  client.destroy();
});

test("between two HAProxys client, destination and TLVs come through, with a checksum that HAProxy accepts", async (context) => {
  needs(context, { tools: ["haproxy"] });
  await using server = await haproxyTold(" id=%[fc_pp_unique_id]");
  await using lb = await balancer(server, { send_proxy: "v2" }, ACCEPTING);
  await using front = await haproxyPeer("", [
    "mode tcp",
    "unique-id-format the-id-%cp",
    `server convey 127.0.0.1:${lb.address("web").port} send-proxy-v2 proxy-v2-options crc32c,unique-id`,
  ]);
  const { body, client } = await told({ host: "127.0.0.1", port: front.port });
  expect(body).toBe(`${client} ${front.addr} id=the-id-${client.split(":")[1]}`);
});

test("without a header nobody comes in, and it is counted where reasons are shown", async () => {
  await using server = await listening(echo);
  await using lb = await balancer(server, {}, { ...ACCEPTING, proxy_header_timeout_ms: 200 });
  const close = async (bytes: string) => {
    const client = await dial(lb.address("web"));
    client.write(bytes);
    client.resume();
    // With a reset, where bytes were left unread.
    await gone(client);
  };
  await close("GET / HTTP/1.1\r\n\r\n");
  await close("PROXY ");
  const { reasons } = lb.stats();
  expect(reasons).toMatchObject({ proxy_header_invalid: 1, proxy_header_timeout: 1 });
  expect(lb.stats().frontends.web?.reasons).toMatchObject({
    proxy_header_invalid: 1,
    proxy_header_timeout: 1,
  });
  expect(await lb.metrics()).toMatch(/convey_connection_errors_total\{reason="proxy_header_invalid"\} 1/);
});
