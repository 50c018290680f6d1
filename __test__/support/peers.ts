/** Command lines and configuration of the balancers measured beside ours, and of real servers for tests. */
import { existsSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

/** The executable of the command line, as published. */
export const CONVEY = resolve(import.meta.dirname, conveyFrom(import.meta.dirname));

function conveyFrom(folder: string): string {
  // The checkout's dist is above whoever asks.
  let at = folder;
  while (!existsSync(join(at, "Cargo.lock"))) at = resolve(at, "..");
  return join(at, "dist/cli/main.js");
}

/** A TCP balancer in front of one server. */
export interface Relay {
  /** `ip:port` it listens on. */
  listen: string;
  /** `ip:port` of the server. */
  server: string;
  threads: number;
  /** Further servers, each for its share of the connections. */
  more?: readonly string[];
  /** A second address with a server of its own. */
  beside?: { listen: string; server: string };
  /** How many connections at once it must be able to hold; 6,000 are always possible. */
  pairs?: number;
  /** Servers are told the client's address: by PROXY v2, or v1 where that is all a balancer has. */
  sendProxy?: boolean;
  /** Only TLS connections for this server name get to the server; others to an address where nobody listens. */
  sni?: string;
  /** A file that gets a line for each connection. */
  log?: string;
}

/** Where nobody listens. */
const NOBODY = "127.0.0.1:9";

/** An empty folder of its own under the system's temporary one. */
export function folder(name: string): string {
  return mkdtempSync(join(tmpdir(), `convey-${name}-`));
}

export function haproxy(relay: Relay, splice: boolean): string[] {
  const file = join(folder("haproxy"), "haproxy.cfg");
  const proxy = relay.sendProxy ? " send-proxy-v2" : "";
  const servers = [relay.server, ...(relay.more ?? [])].map(
    (server, i) => `  server s${i} ${server}${proxy}`,
  );
  const routes = [
    "  tcp-request inspect-delay 5s",
    "  tcp-request content accept if { req.ssl_hello_type 1 }",
    `  use_backend pool if { req.ssl_sni -i ${relay.sni} }`,
    `  server nobody ${NOBODY}`,
    "backend pool",
  ];
  const lines = [
    "global",
    `  nbthread ${relay.threads}`,
    `  maxconn ${room(relay)}`,
    // Pipes count among the open files that it makes sure of; idle connections hold none.
    ...(splice && relay.pairs !== undefined ? ["  maxpipes 100"] : []),
    ...(relay.log === undefined ? [] : ["  log stdout format raw local0"]),
    "defaults",
    "  mode tcp",
    "  timeout connect 3s",
    "  timeout client 300s",
    "  timeout server 300s",
    ...(splice ? ["  option splice-request", "  option splice-response"] : []),
    ...(relay.log === undefined ? [] : ["  log global", "  option tcplog"]),
    "listen bench",
    `  bind ${relay.listen}`,
    ...(relay.sni === undefined ? [] : routes),
    ...servers,
    ...(relay.beside === undefined
      ? []
      : ["listen beside", `  bind ${relay.beside.listen}`, `  server one ${relay.beside.server}`]),
    "",
  ];
  writeFileSync(file, lines.join("\n"));
  const command = ["haproxy", "-db", "-f", file];
  // It writes no files by itself: what goes to a file is its standard output.
  return relay.log === undefined ? command : ["sh", "-c", 'exec "$@" >>"$0"', relay.log, ...command];
}

function room(relay: Relay): number {
  return Math.max(6000, (relay.pairs ?? 0) + 100);
}

const STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so";

export function nginxStream(relay: Relay, buffer: string): string[] {
  const home = folder("nginx");
  const lines = [
    ...(existsSync(STREAM_MODULE) ? [`load_module ${STREAM_MODULE};`] : []),
    ...nginxHead(home, relay.threads, 2 * (relay.pairs ?? 0) + 100),
    "stream {",
    `  upstream pool { ${[relay.server, ...(relay.more ?? [])].map((server) => `server ${server};`).join(" ")} }`,
    ...(relay.sni === undefined ? [] : nginxRoutes(relay.sni)),
    ...(relay.log === undefined ? [] : [NGINX_FORMAT]),
    "  server {",
    `    listen ${relay.listen} reuseport backlog=16384;`,
    ...(relay.sni === undefined
      ? ["    proxy_pass pool;"]
      : ["    ssl_preread on;", "    proxy_pass $route;"]),
    ...(relay.sendProxy ? ["    proxy_protocol on;"] : []),
    // Buffered, as its own guide advises: without that each line is a system call.
    ...(relay.log === undefined ? [] : [`    access_log ${relay.log} line buffer=64k flush=1s;`]),
    "    proxy_timeout 300s;",
    `    proxy_buffer_size ${buffer};`,
    "  }",
    ...(relay.beside === undefined ? [] : nginxBeside(relay.beside, buffer)),
    "}",
    "",
  ];
  return nginxCommand(home, lines);
}

const NGINX_FORMAT =
  "  log_format line '$remote_addr:$remote_port [$time_local] $upstream_addr $status $bytes_sent $bytes_received " +
  "$upstream_connect_time $session_time';";

function nginxRoutes(name: string): string[] {
  return [
    `  upstream nobody { server ${NOBODY}; }`,
    `  map $ssl_preread_server_name $route { ${name} pool; default nobody; }`,
  ];
}

function nginxBeside({ listen, server }: { listen: string; server: string }, buffer: string): string[] {
  return [
    "  server {",
    `    listen ${listen} reuseport backlog=16384;`,
    `    proxy_pass ${server};`,
    "    proxy_timeout 300s;",
    `    proxy_buffer_size ${buffer};`,
    "  }",
  ];
}

/** nginx as an HTTP server of the files under `root`; PUT stores one. `http` are lines of its http block. */
export function nginxFiles(
  listen: string,
  root: string,
  http: readonly string[] = ["client_max_body_size 0;"],
): string[] {
  const home = folder("nginx-files");
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
  const lines = [
    ...nginxHead(home, 1),
    "http {",
    "  access_log off;",
    ...temporary.map((kind) => `  ${kind}_temp_path ${home}/${kind};`),
    ...http.map((line) => `  ${line}`),
    `  server { listen ${listen}; root ${root}; dav_methods PUT; }`,
    "}",
    "",
  ];
  return nginxCommand(home, lines);
}

function nginxHead(home: string, workers: number, connections = 0): string[] {
  return [
    "daemon off;",
    "user root;",
    `worker_processes ${workers};`,
    `worker_rlimit_nofile ${Math.max(20_000, connections + 100)};`,
    `pid ${home}/nginx.pid;`,
    `error_log ${home}/error.log warn;`,
    `events { worker_connections ${Math.max(19_000, connections)}; multi_accept on; }`,
  ];
}

function nginxCommand(home: string, lines: string[]): string[] {
  const file = join(home, "nginx.conf");
  writeFileSync(file, lines.join("\n"));
  return ["nginx", "-e", join(home, "error.log"), "-p", home, "-c", file];
}

/** Our command line, as an operator runs it. */
export function convey(relay: Relay): string[] {
  return [process.execPath, CONVEY, "run", "-c", conveyConfig(relay)];
}

/** Path of a configuration file for it. */
export function conveyConfig(relay: Relay): string {
  const file = join(folder("bench"), "convey.toml");
  const lines = [
    "[proxy]",
    `workers = ${relay.threads}`,
    "[log]",
    'level = "warn"',
    ...(relay.log === undefined ? [] : ['connections = "all"', `connections_file = "${relay.log}"`]),
    "[frontends.bench]",
    `listen_addr = "${relay.listen}"`,
    ...(relay.sni === undefined
      ? ['backend = "pool"']
      : ['backend = "nobody"', `sni = { "${relay.sni}" = "pool" }`]),
    ...(relay.sendProxy ? ["[backends.pool]", 'send_proxy = "v2"'] : []),
    ...[relay.server, ...(relay.more ?? [])].flatMap((server, i) => [
      `[backends.pool.servers.s${i}]`,
      `addr = "${server}"`,
    ]),
    ...(relay.sni === undefined ? [] : ["[backends.nobody.servers.one]", `addr = "${NOBODY}"`]),
    ...(relay.beside === undefined
      ? []
      : [
          "[frontends.beside]",
          `listen_addr = "${relay.beside.listen}"`,
          'backend = "beside"',
          "[backends.beside.servers.one]",
          `addr = "${relay.beside.server}"`,
        ]),
    "",
  ];
  writeFileSync(file, lines.join("\n"));
  return file;
}
