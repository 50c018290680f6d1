/** `upstream` blocks of nginx, and addresses behind proxy_pass, as backends. */
import { serverAddress } from "./addresses.ts";
import { Names, Table } from "./draft.ts";
import { nginxDuration } from "./durations.ts";
import type { Directive } from "./nginx-blocks.ts";
import type { Scope } from "./nginx-scope.ts";
import { reasonFor } from "./nginx-words.ts";

type Left = (line: number, message: string) => void;

interface Upstream {
  line: number;
  isUsed: boolean;
  balance?: { value: string; line: number };
  servers: Map<string, Table>;
  /** Failures after which a server is left alone, and for how long. */
  eject: { after: number; ms: number; line: number | undefined };
}

/** Servers tried at most: the configuration has no larger number. */
const MOST_RETRIES = 100;

export class Upstreams {
  readonly #known = new Map<string, Upstream>();
  /** By upstream and what the server block adds: a backend has timeouts of its own. */
  readonly #made = new Map<string, string>();
  readonly #names = new Names();
  readonly #backends: Table;
  readonly #left: Left;

  constructor(backends: Table, left: Left) {
    this.#backends = backends;
    this.#left = left;
  }

  add(name: string, line: number, block: readonly Directive[]): void {
    const upstream: Upstream = {
      line,
      isUsed: false,
      servers: new Map(),
      eject: { after: 1, ms: 10_000, line: undefined },
    };
    for (const directive of block) {
      if (directive.name === "server") this.#server(upstream, directive);
      else this.#method(upstream, directive);
    }
    this.#known.set(name, upstream);
  }

  /** Tells of those that nothing leads to. */
  tellUnused(): void {
    for (const { line, isUsed } of this.#known.values()) {
      if (!isUsed) this.#left(line, "not taken over: no server that was taken over uses it");
    }
  }

  /** Servers behind a proxy_pass. */
  sizeOf(target: string): number {
    return this.#known.get(target)?.servers.size ?? 1;
  }

  /** The name of the backend for a proxy_pass in this scope; it is made if there is none yet. */
  backend(target: string, line: number, scope: Scope, protocol: "tcp" | "udp"): string {
    const known = this.#known.get(target);
    if (known) known.isUsed = true;
    const settings = new Map<string, { value: string | number; line?: number }>();
    settings.set("connect_timeout_ms", scope.duration("proxy_connect_timeout", 60_000));
    if (protocol === "tcp") settings.set("idle_timeout_ms", scope.duration("proxy_timeout", 600_000));
    const tries = scope.number("proxy_next_upstream_tries");
    const servers = known?.servers.size ?? 1;
    const most = Math.min(tries?.value || servers, servers, MOST_RETRIES + 1);
    const again = scope.get("proxy_next_upstream");
    if (again?.args[0] === "off") settings.set("retries", { value: 0, line: again.line });
    else settings.set("retries", { value: Math.max(most - 1, 0), ...(tries && { line: tries.line }) });
    const header = scope.get("proxy_protocol");
    if (header && scope.isOn("proxy_protocol"))
      settings.set("send_proxy", { value: "v1", line: header.line });
    const source = sourceOf(scope, this.#left);
    if (source !== undefined) settings.set("source", source);

    const key = JSON.stringify([target, ...[...settings].map(([name, { value }]) => [name, value])]);
    const made = this.#made.get(key);
    if (made !== undefined) return made;
    const name = this.#names.take(target);
    this.#made.set(key, name);
    const table = this.#backends.table(
      name,
      known?.line ?? line,
      known ? `upstream ${target}` : `proxy_pass ${target}`,
    );
    table.set("balance", known?.balance?.value, known?.balance?.line);
    for (const [setting, { value, line: from }] of settings) table.set(setting, value, from);
    const eject = known?.eject;
    if (eject && eject.after > 0 && servers > 1) {
      table.set("eject_after", eject.after, eject.line);
      table.set("eject_ms", eject.ms, eject.line);
    }
    // nginx asks nobody: it learns from the connections of clients.
    table.table("health_check", known?.line ?? line).set("type", "none");
    const pool = table.table("servers", known?.line ?? line);
    if (known) for (const [server, its] of known.servers) pool.tables.set(server, its);
    else this.#only(pool, target, line);
    return name;
  }

  #only(pool: Table, target: string, line: number): void {
    const address = serverAddress(target);
    if (!address.ok) {
      this.#left(
        line,
        `the server is not taken over: no upstream has this name, and as an address ${address.message}`,
      );
      return;
    }
    pool.table("s1", line, target).set("addr", address.addr, line);
  }

  #server(upstream: Upstream, { args, line }: Directive): void {
    const [written = "", ...options] = args;
    const address = serverAddress(written);
    if (!address.ok) {
      this.#left(line, `the server is not taken over: ${address.message}`);
      return;
    }
    const table = new Table(line, "server");
    table.set("addr", address.addr, line);
    for (const option of options) this.#option(upstream, table, option, line);
    upstream.servers.set(`s${upstream.servers.size + 1}`, table);
  }

  #option(upstream: Upstream, table: Table, option: string, line: number): void {
    const [name = "", value = ""] = option.split("=");
    const number = /^\d{1,10}$/.test(value) ? Number(value) : undefined;
    const ms = nginxDuration(value);
    const { eject } = upstream;
    const first = eject.line === undefined || eject.line === line;
    if (name === "weight" && number !== undefined) table.set("weight", number, line);
    else if (name === "max_conns" && number !== undefined)
      table.set("max_connections", number || undefined, line);
    else if (option === "backup") table.set("backup", true, line);
    else if (option === "down") table.set("weight", 0, line);
    // Names are resolved again anyhow.
    else if (option === "resolve") return;
    else if (name === "max_fails" && number !== undefined && (first || eject.after === number)) {
      upstream.eject = { ...eject, after: number, line };
    } else if (name === "fail_timeout" && ms !== undefined && (first || eject.ms === ms)) {
      upstream.eject = { ...eject, ms, line };
    } else if (name === "max_fails" || name === "fail_timeout") {
      this.#left(
        line,
        `"${option}" is not taken over: eject_after and eject_ms are of the backend, and line ${eject.line} has others`,
      );
    } else if (name === "slow_start" || name === "service") {
      this.#left(
        line,
        `"${option}" is not taken over: write slow_start_ms in the backend, or a name of an SRV record`,
      );
    } else this.#left(line, `"${option}" is not taken over: there is nothing like it here`);
  }

  #method(upstream: Upstream, { name, args, line }: Directive): void {
    const [what = "", ...more] = args;
    if (name === "least_conn") upstream.balance = { value: "least_connections", line };
    else if (name === "random") upstream.balance = { value: "random_two", line };
    else if (name === "hash" && /^\$(binary_)?remote_addr$/.test(what)) {
      upstream.balance = { value: "source_hash", line };
    } else {
      const reason = name === "hash" ? "source_hash goes by the client's address alone" : reasonFor(name);
      if (reason !== undefined) this.#left(line, `not taken over: ${reason}`);
    }
    if (name === "random" && (what === "" || (more.length > 0 && more[0] !== "least_conn"))) {
      this.#left(line, "random_two takes the server with fewer connections of two that were drawn");
    }
  }
}

/** `proxy_bind`: an address, or the client's. */
function sourceOf(scope: Scope, left: Left): { value: string; line: number } | undefined {
  const bind = scope.get("proxy_bind");
  const [what = ""] = bind?.args ?? [];
  if (bind === undefined || what === "off") return undefined;
  if (what === "$remote_addr") return { value: "client", line: bind.line };
  if (!what.includes("$")) return { value: what, line: bind.line };
  left(bind.line, 'not taken over: of variables, $remote_addr is understood, which is source = "client"');
  return undefined;
}
