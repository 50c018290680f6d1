/** Asks DNS servers one after another, and follows aliases. Never rejects. */
import { setMaxListeners } from "node:events";
import { parseSocketAddress } from "../../config/address.ts";
import type { Config } from "../../config/schema.ts";
import { type DnsServer, exchange } from "./exchange.ts";
import { type Answer, MOST_RECORDS, type RecordType } from "./message.ts";
import { System } from "./system.ts";
import { Turnstile } from "./turnstile.ts";

/** What is known of a name after it was asked for: what DNS has, that it has nothing, or why nobody knows. */
export type Known = Exclude<Answer, { kind: "alias" | "truncated" }>;

/** Asks for the records of a name. */
export type Ask = (name: string, type: RecordType) => Promise<Known>;

/** Answers whose end is asked for in its turn. */
const MOST_HOPS = 8;
/** Questions under way at once, over all names. */
const AT_ONCE = 32;

/** See the module's head. */
export class Resolver {
  readonly #settings: Config["resolver"];
  readonly #system: System;
  readonly #turnstile = new Turnstile(AT_ONCE);
  readonly #end = new AbortController();
  /** The server that answered last: the first to be asked. */
  #first = 0;

  constructor(settings: Config["resolver"], system: System = new System()) {
    this.#settings = settings;
    this.#system = system;
    setMaxListeners(AT_ONCE, this.#end.signal);
  }

  /** The records of `name`, a name in lower case. */
  readonly ask: Ask = async (name, type) => {
    if (type !== "SRV") {
      const local = await this.#system.addresses(name);
      if (local.length > 0) return ofFamily(local, type, this.#settings.max_ttl_ms);
    }
    let ttlMs = Number.POSITIVE_INFINITY;
    let owner = name;
    for (let hop = 0; hop <= MOST_HOPS; hop++) {
      const answer = await this.#turnstile.pass(() => this.#askServers(owner, type));
      if (answer.kind === "found") return { ...answer, ttlMs: Math.min(ttlMs, answer.ttlMs) };
      if (answer.kind !== "alias") return answer;
      ttlMs = Math.min(ttlMs, answer.ttlMs);
      owner = answer.name;
    }
    return { kind: "failed", cause: "aliases that lead nowhere" };
  };

  /** What is under way is given up: it fails. */
  close(): void {
    this.#end.abort();
  }

  async #askServers(name: string, type: RecordType): Promise<Exclude<Answer, { kind: "truncated" }>> {
    const servers = await this.#servers();
    const { retries, timeout_ms } = this.#settings;
    let answer: Answer = { kind: "failed", cause: "there is no DNS server" };
    for (let tried = 0; tried <= retries; tried++) {
      const index = (this.#first + tried) % servers.length;
      answer = await exchange(servers[index] as DnsServer, name, type, timeout_ms, this.#end.signal);
      if (answer.kind === "failed") continue;
      this.#first = index;
      break;
    }
    return answer.kind === "truncated" ? { kind: "failed", cause: "an answer that is cut" } : answer;
  }

  async #servers(): Promise<DnsServer[]> {
    if (this.#settings.servers.length === 0) return await this.#system.servers();
    return this.#settings.servers.flatMap((text) => {
      const parsed = parseSocketAddress(text, { wildcard: false });
      return parsed.ok ? [parsed.value] : [];
    });
  }
}

function ofFamily(addresses: readonly string[], type: "A" | "AAAA", ttlMs: number): Known {
  const own = addresses.filter((address) => address.includes(":") === (type === "AAAA"));
  if (own.length === 0) return { kind: "none", cause: `no ${type} address in /etc/hosts`, ttlMs };
  const cut = own.length > MOST_RECORDS;
  return { kind: "found", addresses: own.slice(0, MOST_RECORDS), targets: [], ttlMs, cut };
}
