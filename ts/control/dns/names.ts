/**
 * Keeps the names of servers resolved: each is asked for anew when its answers no longer count, or at once when one
 * of its addresses fails, but never more often than the least TTL. Names are told apart by how servers write them.
 */
import { isDeepStrictEqual } from "node:util";
import type { Config } from "../../config/schema.ts";
import { isResolved, parseServerAddress, type ServerAddress } from "../../config/server-address.ts";
import { Lookup } from "./lookup.ts";
import { Resolver } from "./resolver.ts";

/** How long a configuration waits for the first answers on its names. */
export const FIRST_ANSWERS_MS = 5000;

type Entry = {
  lookup: Lookup;
  running: Promise<void> | undefined;
  timer: NodeJS.Timeout | undefined;
  startedAt: number;
  dueAt: number;
};

/** See the module's head. */
export class Names {
  readonly #onLooked: () => void;
  readonly #entries = new Map<string, Entry>();
  #settings: Config["resolver"] | undefined;
  #resolver: Resolver | undefined;
  #closed = false;

  /** `onLooked` is called after each look at a name that has changed what is known of it. */
  constructor(onLooked: () => void) {
    this.#onLooked = onLooked;
  }

  /** What is known of a name that a configuration offered to `prepare()` has. */
  lookup(addr: string): Lookup | undefined {
    return this.#entries.get(addr)?.lookup;
  }

  /** Asks for the names that are new in `config`; resolves when there are answers, or it has waited long enough. */
  async prepare(config: Config): Promise<void> {
    const fresh = [...namesOf(config)].filter(([addr]) => !this.#entries.has(addr));
    if (fresh.length === 0 || this.#closed) return;
    if (!isDeepStrictEqual(this.#settings, config.resolver)) this.#use(config.resolver);
    const looks = fresh.map(([addr, address]) => {
      const entry: Entry = {
        lookup: new Lookup(address),
        running: undefined,
        timer: undefined,
        startedAt: 0,
        dueAt: 0,
      };
      this.#entries.set(addr, entry);
      return this.#look(addr, entry);
    });
    let timer: NodeJS.Timeout | undefined;
    const enough = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, FIRST_ANSWERS_MS);
    });
    await Promise.race([Promise.all(looks), enough]);
    clearTimeout(timer);
  }

  /** Forgets all names but those of `config`; other settings ask for every name anew. */
  follow(config: Config): void {
    const wanted = namesOf(config);
    for (const [addr, entry] of this.#entries) {
      if (wanted.has(addr)) continue;
      clearTimeout(entry.timer);
      this.#entries.delete(addr);
    }
    if (isDeepStrictEqual(this.#settings, config.resolver)) return;
    this.#use(config.resolver);
    for (const [addr, entry] of this.#entries) this.#lookIn(addr, entry, 0);
  }

  /** One of its addresses has failed: it may have moved. */
  suspect(addr: string): void {
    const entry = this.#entries.get(addr);
    if (entry === undefined || entry.running !== undefined) return;
    const now = performance.now();
    const waitMs = Math.max(0, entry.startedAt + (this.#settings?.min_ttl_ms ?? 0) - now);
    if (now + waitMs < entry.dueAt) this.#lookIn(addr, entry, waitMs);
  }

  /** Nothing is asked for or told any more. */
  close(): void {
    this.#closed = true;
    this.#resolver?.close();
    for (const { timer } of this.#entries.values()) clearTimeout(timer);
    this.#entries.clear();
  }

  #use(settings: Config["resolver"]): void {
    this.#settings = settings;
    this.#resolver = new Resolver(settings);
  }

  #lookIn(addr: string, entry: Entry, ms: number): void {
    clearTimeout(entry.timer);
    entry.dueAt = performance.now() + ms;
    entry.timer = setTimeout(() => void this.#look(addr, entry), ms);
    entry.timer.unref();
  }

  #look(addr: string, entry: Entry): Promise<void> {
    entry.running ??= this.#lookNow(addr, entry);
    return entry.running;
  }

  async #lookNow(addr: string, entry: Entry): Promise<void> {
    clearTimeout(entry.timer);
    const [resolver, settings] = [this.#resolver, this.#settings];
    if (resolver === undefined || settings === undefined) return;
    const { lookup } = entry;
    const known = () => [lookup.addresses(), lookup.look()];
    const before = known();
    entry.startedAt = performance.now();
    const timing = {
      minTtlMs: settings.min_ttl_ms,
      maxTtlMs: settings.max_ttl_ms,
      holdMs: settings.hold_ms,
    };
    const freshMs = await lookup.refresh(resolver.ask, timing, () => performance.now());
    entry.running = undefined;
    if (this.#entries.get(addr) !== entry) return;
    this.#lookIn(addr, entry, settings === this.#settings ? freshMs : 0);
    if (!isDeepStrictEqual(known(), before)) this.#onLooked();
  }
}

function namesOf({ backends }: Config): Map<string, ServerAddress & { kind: "name" | "srv" }> {
  const names = new Map<string, ServerAddress & { kind: "name" | "srv" }>();
  for (const { servers } of Object.values(backends)) {
    for (const { addr } of Object.values(servers)) {
      const parsed = parseServerAddress(addr);
      if (parsed.ok && isResolved(parsed.value)) names.set(addr, parsed.value);
    }
  }
  return names;
}
