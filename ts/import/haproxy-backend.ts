/** The backend half of a `backend` or `listen` section. */
import { serverAddress } from "./addresses.ts";
import { Names, Table } from "./draft.ts";
import { readCheck } from "./haproxy-check.ts";
import type { ProxySection } from "./haproxy-sections.ts";
import { readServerOptions, type ServerOptions } from "./haproxy-server.ts";
import type { Left, Place, Settings } from "./haproxy-settings.ts";

const BALANCES: Readonly<Record<string, string>> = {
  roundrobin: "round_robin",
  "static-rr": "round_robin",
  leastconn: "least_connections",
  random: "random_two",
  "random(2)": "random_two",
  source: "source_hash",
};

/** Connections that wait at most where HAProxy has no limit: for a place it has one all the same, maxconn in global. */
const QUEUE = 10_000;

interface Server {
  table: Table;
  options: ServerOptions;
  line: number;
}

type Timed = { value: number; line: number };

export class HaproxyBackend {
  readonly #servers = new Map<string, Server>();
  readonly #clients: Settings[] = [];

  /** Its name here. */
  readonly name: string;
  readonly proxy: ProxySection;
  readonly settings: Settings;
  readonly left: Left;

  constructor(name: string, proxy: ProxySection, settings: Settings, left: Left) {
    this.name = name;
    this.proxy = proxy;
    this.settings = settings;
    this.left = left;
    this.#readServers();
  }

  /** A frontend uses it: how long its clients may be silent counts. */
  servesClientsOf(settings: Settings): void {
    this.#clients.push(settings);
  }

  get isUsed(): boolean {
    return this.#clients.length > 0;
  }

  get servers(): number {
    return this.#servers.size;
  }

  table(limits: Place): Table {
    const { settings, left } = this;
    const table = new Table(this.proxy.line, `${this.proxy.kind} ${this.proxy.name}`);
    const timed = (key: string, found: Timed | undefined) => table.set(key, found?.value, found?.line);
    this.#balance(table);
    timed("connect_timeout_ms", settings.timeout("connect"));
    const retries = settings.number("retries");
    table.set("retries", retries?.value ?? 3, retries?.line);
    // For ever, as HAProxy has it.
    const idle = this.#idle();
    table.set("idle_timeout_ms", idle?.value ?? 0, idle?.line);
    timed("half_close_timeout_ms", least([...this.#ofClients("client-fin"), settings.timeout("server-fin")]));
    this.#queue(table, limits);
    this.#common(table, "source");
    this.#common(table, "slow_start_ms");
    this.#common(table, "on_down");
    this.#checks(table.table("health_check", this.#checked()[0]?.line ?? this.proxy.line));
    if (settings.list("tcp-request").length > 0 && this.proxy.kind === "backend") {
      for (const { number } of settings.list("tcp-request")) {
        left(number, "not taken over: access is a matter of frontends: allow and deny");
      }
    }
    const servers = table.table("servers", this.proxy.line);
    for (const [name, server] of this.#servers) servers.tables.set(name, server.table);
    return table;
  }

  #readServers(): void {
    const names = new Names();
    for (const { words, number } of this.settings.list("server")) {
      const [, name = "", written = "", ...rest] = words;
      const tell = (message: string) => this.left(number, message);
      const options: ServerOptions = { ...this.settings.server };
      const { tls } = readServerOptions(rest, options, tell);
      const address = serverAddress(written);
      if (tls) {
        tell(
          "the server is not taken over: HAProxy begins TLS towards it, and here connections are relayed as they are",
        );
        continue;
      }
      if (!address.ok) {
        tell(`the server is not taken over: ${address.message}`);
        continue;
      }
      const table = new Table(number, `server ${name}`);
      table.set("addr", address.addr, number);
      const weight = options.disabled ? 0 : options.weight;
      if (weight !== undefined && weight !== 1) table.set("weight", weight, number);
      if (options.max_connections) table.set("max_connections", options.max_connections, number);
      if (options.backup) table.set("backup", true, number);
      table.set("send_proxy", options.send_proxy, number);
      const valid = names.take(name, (other) =>
        tell(`its name is "${other}" here: names are unique and have no "/"`),
      );
      this.#servers.set(valid, { table, options, line: number });
    }
  }

  #balance(table: Table): void {
    const line = this.settings.get("balance");
    if (line === undefined) return;
    const [, algorithm = "", ...more] = line.words;
    const balance = Object.hasOwn(BALANCES, algorithm) ? BALANCES[algorithm] : undefined;
    if (balance !== undefined && more.length === 0) table.set("balance", balance, line.number);
    else {
      const known = Object.keys(BALANCES).filter((word) => !word.includes("("));
      this.left(
        line.number,
        `not taken over: of balances, ${known.join(", ")} have a counterpart; this is round_robin now`,
      );
    }
  }

  #ofClients(name: string): (Timed | undefined)[] {
    return this.#clients.map((settings) => settings.timeout(name));
  }

  /** Once both sides have spoken, HAProxy goes by `timeout tunnel`; without it, by the shorter of both sides. */
  #idle(): Timed | undefined {
    return (
      this.settings.timeout("tunnel") ??
      least([...this.#ofClients("client"), this.settings.timeout("server")])
    );
  }

  #queue(table: Table, limits: Place): void {
    if (![...this.#servers.values()].some(({ options }) => options.max_connections)) return;
    table.set("queue", limits.connections?.value ?? QUEUE, limits.connections?.line);
    const wait = this.settings.timeout("queue") ?? this.settings.timeout("connect");
    table.set("queue_timeout_ms", wait?.value, wait?.line);
  }

  #checked(): Server[] {
    return [...this.#servers.values()].filter(({ options }) => options.check);
  }

  /** Checks are one for all servers of a backend. */
  #checks(table: Table): void {
    const checked = this.#checked();
    const [first] = checked;
    const rules = [...this.settings.list("http-check"), ...this.settings.list("tcp-check")];
    if (first === undefined) {
      table.set("type", "none");
      for (const { number } of rules) this.left(number, "not taken over: no server here has check");
      return;
    }
    table.set("type", "tcp", first.line);
    readCheck(table, this.settings.check(), rules, this.left);
    const { options, line } = first;
    const interval = options.interval_ms ?? 2000;
    table.set("interval_ms", interval, options.interval_ms === undefined ? undefined : line);
    const timeout = this.settings.timeout("check");
    table.set("timeout_ms", timeout?.value ?? interval, timeout?.line);
    for (const key of CHECK_KEYS) table.set(key, options[key], line);
    for (const server of this.#servers.values()) {
      if (!server.options.check) {
        this.left(
          server.line,
          "it is checked like the other servers here: a backend checks all of them or none",
        );
      } else if (
        ["interval_ms" as const, ...CHECK_KEYS].some((key) => server.options[key] !== options[key])
      ) {
        this.left(
          server.line,
          `it is checked as the server of line ${line} is: a backend has one health_check`,
        );
      }
    }
  }

  /** A key of the server there, of the backend here: the first server's counts. */
  #common(table: Table, key: "source" | "slow_start_ms" | "on_down"): void {
    const servers = [...this.#servers.values()];
    const first = servers.find(({ options }) => options[key] !== undefined);
    if (first === undefined) return;
    table.set(key, first.options[key], first.line);
    for (const { options, line } of servers) {
      if (options[key] === first.options[key]) continue;
      this.left(line, `${key} is that of line ${first.line} here: it is a key of the backend`);
    }
  }
}

const CHECK_KEYS = [
  "fast_interval_ms",
  "down_interval_ms",
  "rise",
  "fall",
  "port",
  "tls",
  "tls_verify",
  "tls_sni",
] as const;

/** The shortest of those that are set and not without end. */
function least(all: readonly (Timed | undefined)[]): Timed | undefined {
  let shortest: Timed | undefined;
  for (const each of all) {
    if (each && each.value > 0 && each.value < (shortest?.value ?? Number.POSITIVE_INFINITY)) shortest = each;
  }
  return shortest;
}
