/** What checks ask, against real servers and hostile ones. */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import type { HealthCheckConfig } from "../../../ts/config/health-check-schema.ts";
import { type Ask, askOf } from "../../../ts/control/health/ask.ts";
import { askServer } from "../../../ts/control/health/ask-server.ts";
import type { Outcome } from "../../../ts/control/health/outcome.ts";
import { certify } from "../../support/certificates.ts";
import { folder, nginxFiles } from "../../support/peers.ts";
import { start, until } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import { freePort, listening, random } from "../../support/sockets.ts";

type Written = Partial<HealthCheckConfig>;

/** What the configuration makes of a table. */
function asked(health_check: Written, protocol: "tcp" | "udp" = "tcp"): Ask | undefined {
  const checked = checkConfig({
    mode: protocol === "udp" ? "passthrough" : "proxy",
    frontends: { web: { listen_addr: "192.0.2.1:80", backend: "pool", protocol } },
    backends: { pool: { health_check, servers: { one: { addr: "198.51.100.1:80" } } } },
  });
  if (!checked.ok) throw new Error(JSON.stringify(checked.problems));
  return askOf(checked.config, "pool");
}

/** One check within a time, as the monitor makes it. */
function check(
  at: { port: number; host?: string } | { path: string },
  ask: Ask | undefined,
  { timeoutMs = 3000, first }: { timeoutMs?: number; first?: Uint8Array } = {},
): Promise<Outcome> {
  const settings = { intervalMs: 1000, fastIntervalMs: 1000, timeoutMs, rise: 1, fall: 1 };
  const [host, port] = "port" in at ? [at.host ?? "127.0.0.1", at.port] : ["127.0.0.1", 1];
  const path = "path" in at ? at : undefined;
  return new Promise((resolve) => {
    const giveUp = askServer({ key: "pool/one", host, port, settings, ask, first, at: path }, (outcome) => {
      clearTimeout(timer);
      resolve(outcome);
    });
    const timer = setTimeout(() => {
      const late = giveUp.whenLate?.(timeoutMs) ?? { kind: "failed" as const, cause: "silence" };
      giveUp();
      resolve(late);
    }, timeoutMs);
  });
}

/** A server that does this with each connection. */
const server = (serve: (socket: Socket) => void) =>
  listening((socket) => {
    socket.on("error", () => undefined);
    serve(socket);
  });

/** Waits until something listens there. */
const untilListening = (port: number) =>
  until(async () => (await check({ port }, undefined)).kind === "ok", "server");

/** Sends the same without end, as fast as it is taken. */
function flood(socket: Socket, piece: string): void {
  const more = (): void => {
    while (!socket.destroyed && socket.write(piece));
    if (!socket.destroyed) socket.once("drain", more);
  };
  more();
}

async function nginx(lines: (home: string) => readonly string[]) {
  const home = folder("health-nginx");
  mkdirSync(join(home, "root"));
  writeFileSync(join(home, "root", "healthz"), "all is ready\n");
  const port = await freePort();
  const running = start(nginxFiles(`127.0.0.1:${port}`, join(home, "root"), lines(home)));
  await untilListening(port);
  return { port, [Symbol.asyncDispose]: () => running[Symbol.asyncDispose]() };
}

describe("type http", () => {
  test("nginx is asked for a path: its status counts, redirects are not followed, and its body is searched", async (context) => {
    needs(context, { tools: ["nginx"] });
    const extra = await freePort();
    await using web = await nginx(() => [
      "client_max_body_size 0;",
      `server { listen 127.0.0.1:${extra}; location /moved { return 302 /elsewhere; } location /busy { return 503; } location / { return 200 $host; } }`,
    ]);
    const path = "/healthz";
    expect(await check(web, asked({ type: "http", path }))).toEqual({
      kind: "ok",
      cause: "status 200",
      answer: "HTTP/1.1 200 OK",
    });
    expect(await check(web, asked({ type: "http", path: "/none" }))).toEqual({
      kind: "failed",
      cause: "unexpected status 404",
      answer: "HTTP/1.1 404 Not Found",
    });
    expect(await check(web, asked({ type: "http", path: "/none", expect: "200,404-410" }))).toMatchObject({
      kind: "ok",
    });
    expect(await check(web, asked({ type: "http", path, method: "HEAD" }))).toMatchObject({ kind: "ok" });
    expect(await check(web, asked({ type: "http", path, expect_body: "is ready" }))).toMatchObject({
      kind: "ok",
    });
    expect(await check(web, asked({ type: "http", path, expect_body: "is not" }))).toMatchObject({
      kind: "failed",
      cause: "status 200, a body without the expected text",
    });
    const other = { port: extra };
    expect(await check(other, asked({ type: "http", path: "/moved" }))).toMatchObject({
      kind: "ok",
      cause: "status 302",
    });
    expect(await check(other, asked({ type: "http", path: "/moved", expect: "200-299" }))).toMatchObject({
      kind: "failed",
    });
    expect(await check(other, asked({ type: "http", path: "/busy" }))).toMatchObject({
      cause: "unexpected status 503",
    });
    expect(
      await check(other, asked({ type: "http", host: "app.example.com", expect_body: "app.example.com" })),
    ).toMatchObject({ kind: "ok" });
  });

  test("nginx is asked by TLS: the name chooses the certificate, and one for another name or of nobody's fails", async (context) => {
    needs(context, { tools: ["nginx", "openssl"] });
    const [right, other] = [certify("app.example.com"), certify("other.example.com")];
    const port = await freePort();
    const secure = ({ certificate, key }: typeof right, name: string) =>
      `server { listen 127.0.0.1:${port} ssl; server_name ${name}; ssl_certificate ${certificate}; ssl_certificate_key ${key}; location / { return 200 $ssl_server_name; } }`;
    await using _ = await nginx(() => [secure(other, "other.example.com"), secure(right, "app.example.com")]);
    const tls = { type: "http", tls: true, tls_ca: right.ca } as const;
    const named = { ...tls, tls_sni: "app.example.com" };
    expect(await check({ port }, asked({ ...named, expect_body: "app.example.com" }))).toMatchObject({
      kind: "ok",
    });
    expect(await check({ port }, asked({ ...tls, host: "app.example.com:443" }))).toMatchObject({
      kind: "ok",
    });
    expect(
      await check({ port }, asked({ type: "tcp", tls: true, tls_ca: right.ca, tls_sni: "app.example.com" })),
    ).toEqual({
      kind: "ok",
      cause: "TLS handshake done",
    });
    // The certificate is another authority's, for nobody in particular, or trusted by nobody.
    const wrong = [
      { ...named, tls_sni: "other.example.com" },
      tls,
      { ...named, tls_ca: other.ca },
      { type: "http", tls: true } as const,
    ];
    for (const it of wrong) {
      expect(await check({ port }, asked(it))).toEqual({
        kind: "failed",
        cause: expect.stringMatching(/^TLS: /),
      });
    }
    const wrongName = { ...tls, tls_ca: other.ca, tls_sni: "elsewhere.example.com" };
    expect(await check({ port }, asked(wrongName))).toMatchObject({
      cause: expect.stringContaining("ERR_TLS_CERT_ALTNAME_INVALID"),
    });
    expect(await check({ port }, asked({ type: "http", tls: true, tls_verify: false }))).toMatchObject({
      kind: "ok",
    });
  });

  test("TLS asked of a server that speaks none fails, and says so", async (context) => {
    needs(context, { tools: ["nginx"] });
    await using web = await nginx(() => []);
    expect(await check(web, asked({ type: "http", tls: true, tls_verify: false }))).toMatchObject({
      kind: "failed",
      cause: expect.stringMatching(/^TLS: /),
    });
  });

  test("certificates that cannot be read are our fault, not the server's", async () => {
    await using it = await server(() => undefined);
    expect(await check(it, asked({ type: "tcp", tls: true, tls_ca: "/none/ca.pem" }))).toEqual({
      kind: "local",
      cause: "tls_ca /none/ca.pem names no file",
    });
  });

  test.each([
    [
      "an endless header",
      (socket: Socket) => flood(socket, "HTTP/1.1 200 OK\r\nx: ".padEnd(4096, "y")),
      /^no HTTP: .*(OVERFLOW|Overflow)/,
    ],
    [
      "an endless line of many headers",
      (socket: Socket) => flood(socket, `HTTP/1.1 200 OK\r\n${"a: b\r\n".repeat(5000)}`),
      /^no HTTP: /,
    ],
    [
      "endless informational responses",
      (socket: Socket) => flood(socket, "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(200)),
      /^no end of informational responses$/,
    ],
    ["garbage", (socket: Socket) => void socket.end("SSH-2.0-\u0007OpenSSH\r\n"), /^no HTTP: /],
    [
      "an upgrade",
      (socket: Socket) =>
        void socket.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
      /^status 101/,
    ],
    ["nothing and closes", (socket: Socket) => void socket.end(), /^closed without a response$/],
    [
      "a reset",
      (socket: Socket) => void socket.once("data", () => socket.resetAndDestroy()),
      /^connection reset/,
    ],
    [
      "half a header and closes",
      (socket: Socket) => void socket.end("HTTP/1.1 200 OK\r\nx"),
      /^(no HTTP: |closed without)/,
    ],
  ])("a server that sends %s fails the check at once, and no more", async (_, serve, cause) => {
    await using it = await server(serve);
    const outcome = await check(it, asked({ type: "http" }), { timeoutMs: 10_000 });
    expect(outcome).toMatchObject({ kind: "failed", cause: expect.stringMatching(cause) });
    expect(JSON.stringify(outcome).length).toBeLessThan(600);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what is looked for
    expect(JSON.stringify(outcome)).not.toMatch(/\\u00|[\u0000-\u001f]/);
  });

  test("an endless body is not read beyond its first 64 KiB, and not at all where nothing is looked for", async () => {
    const head = "HTTP/1.1 200 OK\r\n\r\n";
    await using it = await server((socket) => {
      socket.write(head);
      flood(socket, "x".repeat(4096));
    });
    expect(await check(it, asked({ type: "http" }))).toMatchObject({ kind: "ok" });
    expect(await check(it, asked({ type: "http", expect_body: "never" }))).toMatchObject({
      cause: "status 200, a body without the expected text in its first 64 KiB",
    });
  });

  test("a server that is silent, trickles or never ends is told apart when its time is over", async () => {
    const trickle = (socket: Socket) => void setInterval(() => socket.write("H"), 20).unref();
    await using silent = await server(() => undefined);
    await using slow = await server(trickle);
    const short = { timeoutMs: 150 };
    expect(await check(silent, asked({ type: "http" }), short)).toMatchObject({
      cause: "no response within 150 ms",
      silent: true,
    });
    expect((await check(slow, asked({ type: "http" }), short)).kind).toBe("failed");
    expect(await check(silent, asked({ type: "tcp", tls: true }), short)).toMatchObject({
      cause: "the TLS handshake did not end within 150 ms",
    });
  });
});

describe("type send_expect", () => {
  /** As Redis answers. */
  const redis = (socket: Socket) =>
    void socket.on("data", (data) =>
      socket.write(String(data) === "PING\r\n" ? "+PONG\r\n" : "-ERR unknown command\r\n"),
    );
  const ping = { type: "send_expect", send: String.raw`PING\r\n`, expect: "+PONG" } as const;

  test("an exchange succeeds when the expected text comes, in one piece or many", async () => {
    await using whole = await server(redis);
    await using pieces = await server((socket) => {
      for (const [n, letter] of [..."noise +PO", "NG"].entries())
        setTimeout(() => socket.write(letter), n * 5);
    });
    expect(await check(whole, asked(ping))).toEqual({
      kind: "ok",
      cause: "answered as expected",
      answer: "+PONG",
    });
    expect(await check(pieces, asked(ping))).toMatchObject({ kind: "ok" });
    expect(await check(whole, asked({ ...ping, send: "PONG" }), { timeoutMs: 200 })).toEqual({
      kind: "failed",
      cause: "an answer without the expected text within 200 ms",
      silent: true,
      answer: "-ERR unknown command",
    });
  });

  test("a server that speaks first is listened to, whatever bytes it sends", async () => {
    await using it = await server((socket) => void socket.write(Buffer.of(0xff, 0x00, 0x0a)));
    expect(await check(it, asked({ type: "send_expect", expect: String.raw`\xff\0` }))).toMatchObject({
      kind: "ok",
      answer: "··",
    });
    expect(await check(it, asked({ type: "send_expect", expect: "" }))).toMatchObject({ kind: "ok" });
  });

  test("an endless answer, an early end and a refusal fail it", async () => {
    await using endless = await server((socket) => flood(socket, "x".repeat(1000)));
    await using closing = await server((socket) => void socket.end("bye"));
    expect(await check(endless, asked(ping))).toMatchObject({
      cause: "an answer without the expected text in its first 64 KiB",
    });
    expect(await check(closing, asked(ping))).toMatchObject({
      cause: "closed after an answer without the expected text",
      answer: "bye",
    });
    expect(await check({ port: await freePort() }, asked(ping))).toMatchObject({
      cause: "connection refused (ECONNREFUSED)",
    });
  });

  test("what has to come first comes before the request, and a socket's path does for an address", async () => {
    const path = join(folder("health-unix"), "socket");
    const heard: string[] = [];
    const unix = createServer((socket) => {
      socket.on("error", () => undefined);
      socket.on("data", (data) => {
        heard.push(String(data));
        if (heard.join("").includes("PING")) socket.write("+PONG");
      });
    }).listen(path);
    await once(unix, "listening");
    expect(await check({ path }, asked(ping), { first: Buffer.from("PROXY UNKNOWN\r\n") })).toMatchObject({
      kind: "ok",
    });
    expect(heard.join("")).toBe("PROXY UNKNOWN\r\nPING\r\n");
    expect(await check({ path }, undefined)).toEqual({ kind: "ok" });
    unix.close();
    expect(await check({ path: `${path}-none` }, undefined)).toMatchObject({
      cause: "no such socket (ENOENT)",
    });
  });
});

test("whatever bytes a server sends, in whatever pieces, a check ends with words that are inert, and leaves nothing open", async () => {
  const next = random(20261127);
  const pieces = [
    "HTTP/1.1 ",
    "HTTP/1.0 200 OK\r\n",
    "\r\n\r\n",
    "transfer-encoding: chunked\r\n",
    "content-length: 3\r\n",
    "fffffffff\r\n",
    "\u001b[31m",
    "\u202e",
  ];
  const said = (): Buffer =>
    Buffer.concat(
      Array.from({ length: Math.floor(next() * 8) }, () =>
        next() < 0.6
          ? Buffer.from(pieces[Math.floor(next() * pieces.length)] as string)
          : Buffer.from(Array.from({ length: Math.floor(next() * 20) }, () => Math.floor(next() * 256))),
      ),
    );
  await using it = await server((socket) => {
    // Its half is not what is looked at.
    socket.resume().on("end", () => socket.destroy());
    const bytes = said();
    const cut = Math.floor(next() * bytes.length);
    socket.write(bytes.subarray(0, cut));
    setTimeout(() => (next() < 0.2 ? socket.write(bytes.subarray(cut)) : socket.end(bytes.subarray(cut))), 1);
  });
  const asks = [
    asked({ type: "http" }),
    asked({ type: "http", expect_body: "x" }),
    asked({ type: "send_expect", send: "x", expect: "HTTP" }),
    asked({ type: "tcp", tls: true, tls_verify: false }),
    asked({ type: "send_expect", protocol: "udp", send: "x", expect: "y" }),
  ];
  const open = () => readdirSync("/proc/self/fd").length;
  const before = open();
  for (let n = 0; n < 40; n++) {
    const outcomes = await Promise.all(
      asks.flatMap((ask) => [check(it, ask, { timeoutMs: 60 }), check(it, ask, { timeoutMs: 60 })]),
    );
    for (const outcome of outcomes) {
      expect(["ok", "failed"]).toContain(outcome.kind);
      for (const text of Object.values(outcome)) {
        if (typeof text !== "string") continue;
        expect(text).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u);
        expect(text.length).toBeLessThan(300);
      }
    }
  }
  await until(() => open() <= before + 2, "closed sockets");
});

describe("type send_expect by datagrams", () => {
  async function udp(answer: (message: Buffer) => Buffer[]) {
    const socket = createSocket("udp4");
    socket.on("message", (message, from) => {
      for (const it of answer(message)) socket.send(it, from.port, from.address);
    });
    socket.bind(0, "127.0.0.1");
    await once(socket, "listening");
    return { port: socket.address().port, [Symbol.asyncDispose]: async () => void socket.close() };
  }
  const ping = { type: "send_expect", send: "ping", expect: "pong" } as const;

  test("an expected answer counts; another one, and silence, do not", async () => {
    await using good = await udp((message) => [
      Buffer.from("first"),
      Buffer.from(String(message) === "ping" ? "pong" : "?"),
    ]);
    await using bad = await udp(() => [Buffer.from("no")]);
    await using silent = await udp(() => []);
    const short = { timeoutMs: 200 };
    expect(await check(good, asked(ping, "udp"))).toMatchObject({
      kind: "ok",
      cause: "answered as expected",
    });
    expect(await check(bad, asked(ping, "udp"), short)).toEqual({
      kind: "failed",
      cause: "an answer without the expected text within 200 ms",
      answer: "no",
    });
    expect(await check(silent, asked(ping, "udp"), short)).toMatchObject({
      cause: "no answer within 200 ms",
    });
    expect(await check(silent, asked({ type: "send_expect", send: "x" }, "udp"), short)).toEqual({
      kind: "ok",
      cause: "not refused within 200 ms",
    });
  });

  test("a port at which nobody listens is refused at once, by ICMP", async () => {
    const gone = await udp(() => []);
    const { port } = gone;
    await gone[Symbol.asyncDispose]();
    for (const it of [ping, { type: "send_expect", send: "x" } as const]) {
      expect(await check({ port }, asked(it, "udp"), { timeoutMs: 10_000 })).toMatchObject({
        kind: "failed",
        cause: expect.stringContaining("ECONNREFUSED"),
      });
    }
  });

  test("dnsmasq is asked a question, which its answer repeats", async (context) => {
    needs(context, { tools: ["dnsmasq"] });
    const port = await freePort();
    await using _ = start([
      "dnsmasq",
      "--keep-in-foreground",
      "--no-resolv",
      "--no-hosts",
      "--bind-interfaces",
      "--listen-address=127.0.0.1",
      `--port=${port}`,
      "--address=/health.test/192.0.2.7",
      "--pid-file=",
      "--user=root",
    ]);
    await untilListening(port);
    const question = String.raw`\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06health\x04test\x00\x00\x01\x00\x01`;
    const ask = asked({ type: "send_expect", send: question, expect: String.raw`\xc0\x00\x02\x07` }, "udp");
    expect(await check({ port }, ask)).toMatchObject({ kind: "ok" });
  });
});
