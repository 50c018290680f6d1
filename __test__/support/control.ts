/** Servers, configurations and requests that the control plane's tests share. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer, type IncomingMessage, request } from "node:http";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type { Balancer, BalancerEvent, Config, ConfigInput, ServerStats } from "../../ts/index.ts";
import { echo, listening } from "./sockets.ts";

/** `await using` closes it; `close` does so earlier. */
export type TestServer = AsyncDisposable & {
  addr: string;
  port: number;
  accepted: () => number;
  close: () => Promise<void>;
};

/** An HTTP server on loopback that answers every request with its name. */
export async function httpServer(name: string, port = 0): Promise<TestServer> {
  const http = createServer((_, response) => response.end(name));
  const server = await listening((socket) => void http.emit("connection", socket), "127.0.0.1", port);
  return { ...server, close: async () => await server[Symbol.asyncDispose]() };
}

/** A TCP server that greets each connection with its name and echoes what comes. */
export async function echoServer(name: string, port = 0): Promise<TestServer> {
  const server = await listening(
    (socket) => {
      socket.write(`${name}\n`);
      echo(socket);
    },
    "127.0.0.1",
    port,
  );
  return { ...server, close: async () => await server[Symbol.asyncDispose]() };
}

/** One frontend "web" on a free port, one backend "pool" with these servers, quick checks. */
export function poolConfig(
  servers: ConfigInput["backends"][string]["servers"],
  more: Partial<ConfigInput> & { pool?: Partial<Omit<Config["backends"][string], "servers">> } = {},
): ConfigInput {
  const { pool, ...rest } = more;
  return {
    frontends: { web: { listen_addr: "127.0.0.1:0", backend: "pool" } },
    backends: {
      pool: {
        health_check_interval: 1,
        health_check_fast_interval_ms: 50,
        health_check_timeout_ms: 500,
        ...pool,
        servers,
      },
    },
    proxy: { workers: 2 },
    ...rest,
  };
}

export type Answer = { status: number; headers: IncomingMessage["headers"]; body: string };

/** One HTTP request on a connection of its own, with exactly these headers. */
export async function ask(
  address: { host: string; port: number },
  path: string,
  options: { method?: string; headers?: Record<string, string>; body?: string } = {},
): Promise<Answer> {
  const outgoing = request({
    host: address.host,
    port: address.port,
    path,
    method: options.method ?? "GET",
    agent: false,
    headers: options.headers ?? {},
  });
  outgoing.end(options.body);
  const [incoming] = (await once(outgoing, "response")) as [IncomingMessage];
  let body = "";
  for await (const chunk of incoming.setEncoding("utf8")) body += chunk;
  return { status: incoming.statusCode ?? 0, headers: incoming.headers, body };
}

/** A connection through the balancer, once the server's greeting has come. */
export class Client {
  readonly socket: Socket;
  greeting = "";
  #received = "";
  #wake: () => void = () => undefined;
  ended = false;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.setEncoding("utf8");
    socket.on("data", (text: string) => {
      this.#received += text;
      this.#wake();
    });
    socket.on("error", () => undefined);
    socket.on("close", () => {
      this.ended = true;
      this.#wake();
    });
  }

  static async open(address: { host: string; port: number }): Promise<Client> {
    const client = new Client(connect(address));
    client.greeting = await client.read();
    return client;
  }

  /** What has come, at least one line of it or the end. */
  async read(): Promise<string> {
    while (!this.#received.includes("\n") && !this.ended) {
      await new Promise<void>((done) => {
        this.#wake = done;
      });
    }
    const end = this.#received.indexOf("\n") + 1;
    const line = this.#received.slice(0, end);
    this.#received = this.#received.slice(end);
    return line.trim();
  }

  async echo(text: string): Promise<string> {
    this.socket.write(`${text}\n`);
    return await this.read();
  }

  close(): void {
    this.socket.destroy();
  }
}

/**
 * A listener whose accept queue is full: further connects are never answered, on any address of 127.0.0.0/8.
 */
export async function blackHole(): Promise<AsyncDisposable & { addr: string; port: number }> {
  const child = spawn(
    process.execPath,
    [
      "-e",
      `const server = require("node:net").createServer().listen({ port: 0, host: "0.0.0.0", backlog: 1 }, () => {
         process.stdout.write(server.address().port + "\\n", () => process.kill(process.pid, "SIGSTOP"));
       });`,
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const [line] = await once(child.stdout, "data");
  const port = Number(String(line));
  await sleep(100);
  const fillers = Array.from({ length: 4 }, () => connect(port, "127.0.0.1").on("error", () => undefined));
  await sleep(100);
  return {
    addr: `127.0.0.1:${port}`,
    port,
    [Symbol.asyncDispose]: async () => {
      for (const filler of fillers) filler.destroy();
      child.kill("SIGKILL");
      if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    },
  };
}

/** Collects events in the background, from now on. */
export function collect(lb: Balancer): BalancerEvent[] {
  const seen: BalancerEvent[] = [];
  const events = lb.events();
  void (async () => {
    for await (const event of events) seen.push(event);
  })();
  return seen;
}

/** Who answers each of `n` connections to frontend "web", opened one after another, counted. */
export async function answers(lb: Balancer, n: number): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (let i = 0; i < n; i++) {
    const client = await Client.open(lb.address("web"));
    const name = client.greeting || "nobody";
    counts[name] = (counts[name] ?? 0) + 1;
    client.close();
  }
  return counts;
}

/** What `/stats` tells of a server of backend "pool". */
export function serverStats(lb: Balancer, name: string): ServerStats {
  const found = lb.stats().backends.pool?.server_details[name];
  if (found === undefined) throw new Error(`no server ${name} in the stats`);
  return found;
}
