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
}

/** An empty folder of its own under the system's temporary one. */
export function folder(name: string): string {
  return mkdtempSync(join(tmpdir(), `convey-${name}-`));
}

export function haproxy(relay: Relay, splice: boolean): string[] {
  const file = join(folder("haproxy"), "haproxy.cfg");
  const lines = [
    "global",
    `  nbthread ${relay.threads}`,
    "  maxconn 6000",
    "defaults",
    "  mode tcp",
    "  timeout connect 3s",
    "  timeout client 300s",
    "  timeout server 300s",
    ...(splice ? ["  option splice-request", "  option splice-response"] : []),
    "listen bench",
    `  bind ${relay.listen}`,
    `  server one ${relay.server}`,
    "",
  ];
  writeFileSync(file, lines.join("\n"));
  return ["haproxy", "-db", "-f", file];
}

const STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so";

export function nginxStream(relay: Relay, buffer: string): string[] {
  const home = folder("nginx");
  const lines = [
    ...(existsSync(STREAM_MODULE) ? [`load_module ${STREAM_MODULE};`] : []),
    ...nginxHead(home, relay.threads),
    "stream {",
    `  upstream pool { server ${relay.server}; }`,
    "  server {",
    `    listen ${relay.listen} reuseport backlog=16384;`,
    "    proxy_pass pool;",
    "    proxy_timeout 300s;",
    `    proxy_buffer_size ${buffer};`,
    "  }",
    "}",
    "",
  ];
  return nginxCommand(home, lines);
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

function nginxHead(home: string, workers: number): string[] {
  return [
    "daemon off;",
    "user root;",
    `worker_processes ${workers};`,
    "worker_rlimit_nofile 20000;",
    `pid ${home}/nginx.pid;`,
    `error_log ${home}/error.log warn;`,
    "events { worker_connections 19000; multi_accept on; }",
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
    "[frontends.bench]",
    `listen_addr = "${relay.listen}"`,
    'backend = "pool"',
    "[backends.pool.servers.one]",
    `addr = "${relay.server}"`,
    "",
  ];
  writeFileSync(file, lines.join("\n"));
  return file;
}
