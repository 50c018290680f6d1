/** HAProxy and nginx that speak the PROXY protocol, as servers behind us and as proxies in front of us. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { folder } from "./peers.ts";
import { type Running, start, until } from "./processes.ts";
import { dial, freePort } from "./sockets.ts";

/** A running peer and where it listens. */
export type Peer = AsyncDisposable & { port: number; addr: string; process: Running };

const HELLO = "PROXY UNKNOWN\r\n";

/** HAProxy with a section `listen it`, of these lines and a free port; `bind` are words of its bind line. */
export async function haproxyPeer(bind: string, lines: readonly string[]): Promise<Peer> {
  const file = join(folder("haproxy"), "haproxy.cfg");
  const configure = (port: number) =>
    writeFileSync(
      file,
      [
        "global",
        "  log stdout format raw local0",
        "defaults",
        "  timeout connect 5s",
        "  timeout client 30s",
        "  timeout server 30s",
        "listen it",
        "  log global",
        `  bind 127.0.0.1:${port} ${bind}`,
        ...lines.map((line) => `  ${line}`),
        "",
      ].join("\n"),
    );
  return peer(["haproxy", "-db", "-f", file], configure, bind === "accept-proxy" ? HELLO : "");
}

/** HAProxy that expects PROXY headers and answers HTTP requests with what it was told; `more` goes behind that. */
export async function haproxyTold(more = ""): Promise<Peer> {
  return haproxyPeer("accept-proxy", [
    "mode http",
    `http-request return status 200 content-type text/plain lf-string "%[src]:%[src_port] %[dst]:%[dst_port]${more}"`,
  ]);
}

/** nginx that does. */
export async function nginxTold(): Promise<Peer> {
  const told =
    "$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port";
  return nginxPeer((port) => [
    "http {",
    "  access_log off;",
    `  server { listen 127.0.0.1:${port} proxy_protocol; location / { return 200 "${told}"; } }`,
    "}",
  ]);
}

/** nginx that puts PROXY headers (version 1, it has no other) before what it passes to `to`. */
export async function nginxTelling(to: string): Promise<Peer> {
  return nginxPeer((port) => [
    "stream {",
    `  server { listen 127.0.0.1:${port}; proxy_pass ${to}; proxy_protocol on; }`,
    "}",
  ]);
}

async function nginxPeer(block: (port: number) => string[]): Promise<Peer> {
  const home = folder("nginx");
  const file = join(home, "nginx.conf");
  const configure = (port: number) => {
    const lines = block(port);
    const module = lines[0]?.startsWith("stream")
      ? ["load_module /usr/lib/nginx/modules/ngx_stream_module.so;"]
      : [];
    const head = ["daemon off;", "user root;", `pid ${home}/pid;`, "error_log stderr info;", "events {}"];
    writeFileSync(file, [...module, ...head, ...lines, ""].join("\n"));
  };
  const isTold = block(0)[0]?.startsWith("http") ?? false;
  return peer(["nginx", "-e", "stderr", "-p", home, "-c", file], configure, isTold ? HELLO : "");
}

/** `hello`: what the connect that looks whether it listens says, so that a peer has nothing to complain of. */
async function peer(command: string[], configure: (port: number) => void, hello: string): Promise<Peer> {
  const port = await freePort();
  configure(port);
  const process = start(command);
  await until(async () => {
    if (!process.running) throw new Error(`${command[0]} ended\n${process.output()}`);
    return dial({ host: "127.0.0.1", port }).then(
      (socket) => {
        socket.end(hello);
        return true;
      },
      () => false,
    );
  }, `${command[0]} to listen`);
  return {
    port,
    addr: `127.0.0.1:${port}`,
    process,
    [Symbol.asyncDispose]: async () => void (await process.stop("SIGTERM", 2000)),
  };
}
