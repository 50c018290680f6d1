/** Directives of `stream` and `server`, where the inner one has what it does not say from the outer. */
import type { Table } from "./draft.ts";
import { nginxDuration } from "./durations.ts";
import { setAccess } from "./emit.ts";
import { type AccessRule, accessLists } from "./networks.ts";
import type { Directive } from "./nginx-blocks.ts";

type Left = (line: number, message: string) => void;

const TAKEN = new Set([
  "proxy_connect_timeout",
  "proxy_timeout",
  "proxy_protocol",
  "proxy_protocol_timeout",
  "proxy_next_upstream",
  "proxy_next_upstream_tries",
  "proxy_responses",
  "proxy_requests",
  "proxy_bind",
  "ssl_preread",
]);

const DURATIONS = new Set(["proxy_connect_timeout", "proxy_timeout", "proxy_protocol_timeout"]);
const NUMBERS = new Set(["proxy_next_upstream_tries", "proxy_responses", "proxy_requests"]);

export class Scope {
  readonly #outer: Scope | undefined;
  readonly #own = new Map<string, Directive>();
  readonly #access: AccessRule[] = [];
  readonly #trusted: Directive[] = [];

  constructor(outer?: Scope) {
    this.#outer = outer;
  }

  /** Takes a directive; false when it is none of these. */
  read(directive: Directive, left: Left): boolean {
    const { name, args, line } = directive;
    if (name === "allow" || name === "deny") {
      this.#access.push({ allow: name === "allow", network: args[0] ?? "", line });
    } else if (name === "set_real_ip_from") this.#trusted.push(directive);
    else if (!TAKEN.has(name)) return false;
    else if (DURATIONS.has(name) && nginxDuration(args[0] ?? "") === undefined) {
      left(line, "not taken over: it is not a duration");
    } else if (NUMBERS.has(name) && !/^\d{1,9}$/.test(args[0] ?? "")) {
      left(line, "not taken over: it is not a number");
    } else this.#own.set(name, directive);
    return true;
  }

  get(name: string): Directive | undefined {
    return this.#own.get(name) ?? this.#outer?.get(name);
  }

  isOn(name: string): boolean {
    return this.get(name)?.args[0] === "on";
  }

  /** Milliseconds, or nginx's default without a line. */
  duration(name: string, fallback: number): { value: number; line?: number } {
    const found = this.get(name);
    return found
      ? { value: nginxDuration(found.args[0] ?? "") ?? fallback, line: found.line }
      : { value: fallback };
  }

  number(name: string): { value: number; line: number } | undefined {
    const found = this.get(name);
    return found && { value: Number(found.args[0]), line: found.line };
  }

  /** Networks that a frontend of this scope has. */
  get networks(): number {
    return this.#accessRules().length + this.#trustedNetworks().length;
  }

  writeFrontend(table: Table, protocol: "tcp" | "udp", left: Left): void {
    const access = this.#accessRules();
    const lists = accessLists(access, ({ network, line }) =>
      left(line, `"${network}" is not taken over: it is not a network, such as 192.0.2.0/24`),
    );
    setAccess(table, lists, access[0]?.line);
    const trusted = this.#trustedNetworks();
    if (table.values.has("accept_proxy")) {
      if (trusted.length > 0) {
        table.set(
          "proxy_trusted",
          trusted.map(({ args }) => args[0] ?? ""),
          trusted[0]?.line,
        );
      }
      const timeout = this.duration("proxy_protocol_timeout", 30_000);
      table.set("proxy_header_timeout_ms", timeout.value, timeout.line);
    }
    if (protocol !== "udp") return;
    const idle = this.duration("proxy_timeout", 600_000);
    table.set("udp_idle_timeout_ms", idle.value, idle.line);
    for (const [key, name] of [
      ["udp_responses", "proxy_responses"],
      ["udp_requests", "proxy_requests"],
    ] as const) {
      const found = this.number(name);
      table.set(key, found?.value, found?.line);
    }
  }

  /** Lists are not added to: the inner one counts if there is one. */
  #accessRules(): readonly AccessRule[] {
    if (this.#access.length > 0 || this.#outer === undefined) return this.#access;
    return this.#outer.#accessRules();
  }

  #trustedNetworks(): readonly Directive[] {
    if (this.#trusted.length > 0 || this.#outer === undefined) return this.#trusted;
    return this.#outer.#trustedNetworks();
  }
}
