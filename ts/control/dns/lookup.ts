/**
 * What is held of one name: the addresses that stand for it now, and what the latest answers said. Time is passed in.
 *
 * The rule: an answer takes the place of the one before. That there is none ("no such name", "no record") counts once
 * it has been so for the hold time; that nobody answers never counts, so the last good addresses stay.
 */
import type { ServerAddress } from "../../config/server-address.ts";
import { notAServer } from "../../config/server-address.ts";
import { MOST_RECORDS, type Target } from "./message.ts";
import type { Ask, Known } from "./resolver.ts";

/** One address of a name. `weight` and `priority` are those of its SRV record. */
export type Resolved = { host: string; port: number; weight?: number; priority?: number };

/** How the latest look at a name ended. `none`: DNS says there is nothing; `failed`: nobody knows. */
export type Look = { state: "resolved" | "none" | "failed"; cause: string; cut: boolean };

export type Timing = { minTtlMs: number; maxTtlMs: number; holdMs: number };

/** When what has failed, or has nothing, is asked for again at the latest. */
const LONGEST_RETRY_MS = 10_000;

/** The records of one type that one name has. */
class Held {
  good: Extract<Known, { kind: "found" }> | undefined;
  latest: Known = { kind: "failed", cause: "not asked for yet" };
  #noneSince: number | undefined;
  #failures = 0;

  take(known: Known, now: number, holdMs: number): void {
    this.latest = known;
    if (known.kind === "failed") {
      this.#failures += 1;
      return;
    }
    this.#failures = 0;
    if (known.kind === "found") {
      this.good = known;
      this.#noneSince = undefined;
      return;
    }
    this.#noneSince ??= now;
    if (now - this.#noneSince >= holdMs) this.good = undefined;
  }

  /** How long what was learnt counts. */
  freshMs(now: number, { minTtlMs, maxTtlMs, holdMs }: Timing): number {
    const clamp = (ms: number) => Math.min(Math.max(ms, minTtlMs), maxTtlMs);
    if (this.latest.kind === "failed") {
      return clamp(Math.min(minTtlMs * 2 ** Math.min(this.#failures - 1, 16), LONGEST_RETRY_MS));
    }
    if (this.latest.kind === "found") return clamp(this.latest.ttlMs);
    const again = clamp(Math.min(this.latest.ttlMs, LONGEST_RETRY_MS));
    if (this.good === undefined || this.#noneSince === undefined) return again;
    return Math.max(1, Math.min(again, this.#noneSince + holdMs - now));
  }
}

/** See the module's head. */
export class Lookup {
  readonly #address: ServerAddress & { kind: "name" | "srv" };
  readonly #held = new Map<string, Held>();

  constructor(address: ServerAddress & { kind: "name" | "srv" }) {
    this.#address = address;
  }

  /** Asks for everything anew; `now` is read once the answers are there. Resolves with how long they count, in ms. */
  async refresh(ask: Ask, timing: Timing, now: () => number): Promise<number> {
    const used = new Set<string>();
    const hold = async (name: string, type: "A" | "AAAA" | "SRV"): Promise<Held> => {
      const key = `${type} ${name}`;
      used.add(key);
      const held = this.#held.get(key) ?? new Held();
      this.#held.set(key, held);
      held.take(await ask(name, type), now(), timing.holdMs);
      return held;
    };
    const both = (name: string) => Promise.all([hold(name, "A"), hold(name, "AAAA")]);
    if (this.#address.kind === "name") {
      await both(this.#address.host);
    } else {
      const srv = await hold(this.#address.host, "SRV");
      await Promise.all([...new Set(srv.good?.targets.map(({ host }) => host))].map(both));
    }
    for (const key of this.#held.keys()) if (!used.has(key)) this.#held.delete(key);
    const at = now();
    const all = [...this.#held.values()];
    // That a name has no address of the other family is not worth a question of its own.
    const telling = all.some(({ latest }) => latest.kind === "found")
      ? all.filter(({ latest, good }) => latest.kind !== "none" || good !== undefined)
      : all;
    return Math.min(...telling.map((held) => held.freshMs(at, timing)));
  }

  /** Every address, in an order that does not depend on that of the answers; a bounded number. */
  addresses(): Resolved[] {
    const found =
      this.#address.kind === "name"
        ? this.#ofHost(this.#address.host, this.#address.port)
        : this.#ofTargets();
    const able = found.filter(({ host, port }) => notAServer(host, port) === undefined);
    return [...new Map(able.sort(inOrder).map((it) => [`${it.host} ${it.port}`, it])).values()].slice(
      0,
      MOST_RECORDS,
    );
  }

  /** How the latest look ended: as a whole it failed when a part did, for then what it would say is not known. */
  look(): Look {
    const latest = [...this.#held.values()].map((held) => held.latest);
    const cut = latest.some((it) => it.kind === "found" && it.cut) || this.#count() > MOST_RECORDS;
    const failed = latest.find((it) => it.kind === "failed");
    if (failed?.kind === "failed") return { state: "failed", cause: failed.cause, cut };
    const found = latest.some((it) => it.kind === "found" && it.addresses.length > 0);
    const none = latest.find((it) => it.kind === "none");
    return found || none?.kind !== "none"
      ? { state: "resolved", cause: "", cut }
      : {
          state: "none",
          cause: this.#address.kind === "name" ? noAddress(latest, none.cause) : none.cause,
          cut,
        };
  }

  #ofHost(name: string, port: number): Resolved[] {
    return (["A", "AAAA"] as const).flatMap((type) => {
      const addresses = this.#held.get(`${type} ${name}`)?.good?.addresses ?? [];
      return addresses.map((host) => ({ host, port }));
    });
  }

  #ofTargets(): Resolved[] {
    return this.#targets().flatMap(({ host, port, priority, weight }) =>
      this.#ofHost(host, port).map((it) => ({ ...it, priority, weight })),
    );
  }

  #targets(): Target[] {
    return this.#held.get(`SRV ${this.#address.host}`)?.good?.targets ?? [];
  }

  #count(): number {
    return this.#address.kind === "name" ? this.addresses().length : this.#ofTargets().length;
  }
}

const noAddress = (latest: readonly Known[], cause: string): string =>
  latest.every((it) => it.kind === "none" && it.cause === cause) ? cause : "no address";

/** The best priority first, and IPv4 before IPv6. */
function inOrder(a: Resolved, b: Resolved): number {
  const family = ({ host }: Resolved) => Number(host.includes(":"));
  return (
    (a.priority ?? 0) - (b.priority ?? 0) ||
    family(a) - family(b) ||
    (a.host < b.host ? -1 : a.host > b.host ? 1 : a.port - b.port)
  );
}
