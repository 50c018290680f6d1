/** Backends by server name and ALPN, with HAProxy ending TLS behind each of them, and clients as people use them. */
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { connect as tlsConnect } from "node:tls";
import { beforeAll, expect, test } from "vitest";
import { type Balancer, createBalancer } from "../../../ts/index.ts";
import { Client, echoServer } from "../../support/control.ts";
import { folder } from "../../support/peers.ts";
import { finish, start, until } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import { type Address, dial, freePort, listening, receive } from "../../support/sockets.ts";

const NAMES = ["fallback", "app", "wild", "grpc"] as const;
type Name = (typeof NAMES)[number];

const HELLO = readFileSync(
  join(import.meta.dirname, "../../../crates/convey-proxy/tests/fixtures/client_hello/chromium.bin"),
);

let home: string;
let pem: Record<string, string>;

beforeAll(() => {
  home = folder("hello");
  pem = {};
});

/** A certificate of its own for each name, by which a client tells who has answered. */
function certificate(name: string): string {
  const known = pem[name];
  if (known !== undefined) return known;
  const [key, cert, both] = ["key", "cert", "pem"].map((end) => join(home, `${name}.${end}`)) as [
    string,
    string,
    string,
  ];
  const made = spawnSync("openssl", [
    ..."req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(" "),
    ...["-subj", `/CN=${name}`, "-keyout", key, "-out", cert],
  ]);
  expect(made.status, String(made.stderr)).toBe(0);
  writeFileSync(both, readFileSync(cert, "utf8") + readFileSync(key, "utf8"));
  pem[name] = both;
  return both;
}

/** One HAProxy that ends TLS at an address for each name, and says the name. */
async function tlsServers(): Promise<{ ports: Record<Name, number> } & AsyncDisposable> {
  const ports = {} as Record<Name, number>;
  for (const name of NAMES) ports[name] = await freePort();
  const file = join(home, "haproxy.cfg");
  writeFileSync(
    file,
    [
      "global",
      "  maxconn 4000",
      "defaults",
      "  mode http",
      "  timeout client 60s",
      "  timeout server 60s",
      "  timeout connect 5s",
      ...NAMES.flatMap((name) => [
        `frontend ${name}`,
        `  bind 127.0.0.1:${ports[name]} ssl crt ${certificate(name)} alpn h2,http/1.1`,
        `  http-request return status 200 content-type text/plain string ${name}`,
      ]),
      "",
    ].join("\n"),
  );
  const haproxy = start(["haproxy", "-db", "-f", file]);
  const up = async () =>
    await dial({ host: "127.0.0.1", port: ports.grpc }).then(
      (s) => !!s.destroy(),
      () => false,
    );
  await until(up, "HAProxy to listen", 20_000);
  return { ports, [Symbol.asyncDispose]: async () => await haproxy[Symbol.asyncDispose]() };
}

async function balancer(ports: Record<Name, number>, more: Record<string, unknown> = {}): Promise<Balancer> {
  return await createBalancer({
    frontends: {
      web: {
        listen_addr: "127.0.0.1:0",
        backend: "fallback",
        sni: { "app.example.com": "app", "*.Example.com.": "wild", "bücher.example.org": "app" },
        alpn: { h2: "grpc" },
        ...more,
      },
    },
    backends: Object.fromEntries(
      NAMES.map((name) => [name, { servers: { one: { addr: `127.0.0.1:${ports[name]}` } } }]),
    ),
    proxy: { workers: 2 },
  });
}

const TOOLS = { tools: ["haproxy", "openssl", "curl"] };

test("curl and openssl s_client get the certificate of the backend that their name or protocol leads to", async (context) => {
  needs(context, TOOLS);
  await using servers = await tlsServers();
  await using lb = await balancer(servers.ports);
  const { port } = lb.address("web");
  const curl = async (host: string, ...more: string[]) => {
    const args = [
      "-sk",
      "--http1.1",
      "--no-alpn",
      "--max-time",
      "20",
      ...more,
      "--resolve",
      `${host}:${port}:127.0.0.1`,
    ];
    return (await finish(["curl", ...args, `https://${host}:${port}/`])).stdout;
  };
  expect(await curl("app.example.com")).toBe("app");
  expect(await curl("APP.example.com")).toBe("app");
  expect(await curl("a.b.example.com")).toBe("wild");
  expect(await curl("example.com")).toBe("fallback");
  expect(await curl("xn--bcher-kva.example.org")).toBe("app");
  const subject = async (...args: string[]) => {
    const { stdout } = await finish(["openssl", "s_client", "-connect", `127.0.0.1:${port}`, ...args]);
    return /^subject=.*?CN\s*=\s*(\w+)/m.exec(stdout)?.[1];
  };
  expect(await subject("-servername", "app.example.com")).toBe("app");
  expect(await subject("-servername", "app.example.com", "-alpn", "h2")).toBe("app");
  expect(await subject("-servername", "x.example.com", "-tls1_2")).toBe("wild");
  expect(await subject("-servername", "example.net", "-alpn", "http/1.1,h2")).toBe("grpc");
  expect(await subject("-noservername")).toBe("fallback");
  expect(await subject("-noservername", "-alpn", "h2")).toBe("grpc");
  expect(await subject("-noservername", "-alpn", "http/1.1")).toBe("fallback");
  const { backends, frontends, reasons } = lb.stats();
  expect(NAMES.map((name) => backends[name]?.total_connections)).toEqual([3, 5, 2, 2]);
  expect(frontends.web).toMatchObject({ backend: "fallback", backends: [...NAMES].toSorted(byOrder) });
  // s_client may leave while tickets are on their way to it, which is a reset.
  expect(Object.keys(reasons).filter((reason) => reason !== "client_reset")).toEqual([]);
});

/** As the frontend names them: its own, by name, by protocol. */
const byOrder = (a: Name, b: Name) => NAMES.indexOf(a) - NAMES.indexOf(b);

test("a session goes on whose hello came byte by byte, and flows name the backend that it was led to", async (context) => {
  needs(context, TOOLS);
  await using servers = await tlsServers();
  await using lb = await balancer(servers.ports, { client_hello_timeout_ms: 60_000 });
  const { host, port } = lb.address("web");
  // In front of the balancer, one that cuts the first 600 bytes of each client into single ones.
  const dribble = await dribbling({ host, port });
  const client = tlsConnect({
    port: dribble.port,
    host: "127.0.0.1",
    servername: "app.example.com",
    rejectUnauthorized: false,
  });
  await once(client, "secureConnect");
  expect(client.getPeerCertificate().subject.CN).toBe("app");
  const flows = await lb.flows();
  expect(flows.flows.map((flow) => flow.server?.backend)).toEqual(["app"]);
  client.write("GET / HTTP/1.1\r\nHost: app.example.com\r\nConnection: close\r\n\r\n");
  let text = "";
  client.setEncoding("utf8").on("data", (data: string) => {
    text += data;
  });
  await once(client, "close");
  expect(text).toMatch(/\r\n\r\napp$/);
  dribble.close();
}, 60_000);

async function dribbling(to: Address): Promise<{ port: number; close(): void }> {
  const { createServer } = await import("node:net");
  const server = createServer((from) => {
    const out = connect({ ...to, noDelay: true });
    let left = 600;
    let queue = Promise.resolve();
    from.on("data", (data) => {
      queue = queue.then(async () => {
        for (let at = 0; at < data.length; at++) {
          const end = left > 0 ? at + 1 : data.length;
          out.write(data.subarray(at, end));
          at = end - 1;
          left -= 1;
          if (left > 0) await new Promise((resolve) => setTimeout(resolve, 1));
        }
      });
    });
    out.pipe(from);
    for (const socket of [from, out]) socket.on("error", () => {});
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { port: (server.address() as { port: number }).port, close: () => server.close() };
}

test("plain HTTP and a client that waits for its server to speak go to the default", async () => {
  await using server = await echoServer("default");
  const port = await freePort();
  const config = (ms: number) => ({
    frontends: {
      web: {
        listen_addr: `127.0.0.1:${port}`,
        backend: "pool",
        sni: { "app.example.com": "app" },
        client_hello_timeout_ms: ms,
      },
    },
    backends: {
      pool: { servers: { one: { addr: server.addr } } },
      app: { servers: { none: { addr: "127.0.0.1:1" } } },
    },
  });
  await using lb = await createBalancer(config(60_000));
  const plain = await dial(lb.address("web"));
  const answered = receive(plain);
  plain.end("GET / HTTP/1.1\r\n\r\n");
  expect((await answered).bytes).toBe("default\nGET / HTTP/1.1\r\n\r\n".length);
  await lb.update(config(200));
  const silent = await Client.open(lb.address("web"));
  expect(silent.greeting).toBe("default");
  silent.close();
  const { steps, server: chosen } = await lb.explain("tcp", "127.0.0.9:1", `127.0.0.1:${port}`);
  expect(steps.map(({ kind }) => kind)).toContain("by_client_hello");
  expect(chosen?.backend ?? "pool").toBe("pool");
});

test("explain names the route of a hello it is told of, and clients with that hello go the same way", async () => {
  // A server that says nothing: what its clients wait for.
  await using server = await listening((socket) => socket.on("error", () => {}));
  const port = await freePort();
  await using lb = await createBalancer({
    frontends: {
      web: {
        listen_addr: `127.0.0.1:${port}`,
        backend: "pool",
        sni: { "app.example.com": "app", "*.example.com": "wild" },
        alpn: { h2: "grpc" },
      },
      plain: { listen_addr: "127.0.0.1:0", backend: "pool" },
    },
    backends: Object.fromEntries(
      ["pool", "app", "wild", "grpc"].map((name) => [name, { servers: { one: { addr: server.addr } } }]),
    ),
  });
  /** Where a client of Node's TLS is led to. */
  const led = async (servername: string | undefined, protocols: string[]) => {
    const tls = tlsConnect({
      ...lb.address("web"),
      rejectUnauthorized: false,
      ...(servername !== undefined && { servername }),
      ...(protocols.length > 0 && { ALPNProtocols: protocols }),
    });
    tls.on("error", () => {});
    let backend: string | undefined;
    await until(async () => {
      const { flows } = await lb.flows({ state: "established" });
      backend = flows.find(({ client }) => client.endsWith(`:${tls.localPort}`))?.server?.backend;
      return backend !== undefined;
    }, "a server");
    tls.destroy();
    return backend;
  };
  for (const [sni, alpn, backend, kind, says] of [
    ["APP.example.com", ["h2"], "app", "hello_route", 'the route "app.example.com" in sni'],
    ["x.y.example.com", [], "wild", "hello_route", 'the route "*.example.com" in sni'],
    ["other.test", ["http/1.1", "h2"], "grpc", "hello_route", 'offers "h2", the first'],
    [undefined, ["h2"], "grpc", "hello_route", "in alpn"],
    [undefined, ["http/1.1"], "pool", "no_hello_route", 'the frontend\'s backend "pool"'],
    ["example.com", [], "pool", "no_hello_route", "has a route"],
  ] as const) {
    const hello = { ...(sni !== undefined && { sni }), ...(alpn.length > 0 && { alpn: [...alpn] }) };
    const told = await lb.explain("tcp", "127.0.0.9:1", `127.0.0.1:${port}`, hello);
    expect(told.server?.backend, JSON.stringify(hello)).toBe(backend);
    expect(told.steps.find((step) => step.kind === kind)?.text).toContain(says);
    expect(await led(sni, [...alpn]), JSON.stringify(hello)).toBe(backend);
  }
  const plain = lb.address("plain");
  await expect(
    lb.explain("tcp", "127.0.0.9:1", `127.0.0.1:${plain.port}`, { sni: "app.example.com" }),
  ).rejects.toMatchObject({
    code: "CONFIG_INVALID",
    message: expect.stringContaining('frontend "plain" does not choose by the ClientHello'),
  });
});

test("2,000 clients that say half a hello do not keep others waiting, and are closed and counted", async () => {
  await using server = await echoServer("app");
  await using lb = await createBalancer({
    frontends: {
      web: {
        listen_addr: "127.0.0.1:0",
        backend: "none",
        sni: { "app.example.com": "app" },
        client_hello_timeout_ms: 20_000,
      },
    },
    backends: { none: {}, app: { servers: { one: { addr: server.addr } } } },
    proxy: { workers: 2 },
  });
  const silent: Socket[] = [];
  for (let n = 0; n < 2000; n++) {
    const socket = connect(lb.address("web"));
    socket.on("error", () => {});
    socket.write(HELLO.subarray(0, 1000));
    silent.push(socket);
    if (n % 100 === 99) await once(socket, "connect");
  }
  await until(() => lb.stats().current_connections === 2000, "all to be open", 20_000);
  const begun = performance.now();
  const client = await dial(lb.address("web"));
  client.write(HELLO.subarray(0, 1400));
  client.write(HELLO.subarray(1400));
  const [greeting] = (await once(client, "data")) as [Buffer];
  expect(String(greeting)).toContain("app");
  expect(performance.now() - begun).toBeLessThan(10_000);
  client.destroy();
  await until(() => lb.stats().current_connections === 0, "all to be closed", 60_000);
  expect(lb.stats().reasons.client_hello_timeout).toBe(2000);
  for (const socket of silent) socket.destroy();
}, 120_000);
