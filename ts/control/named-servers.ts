/**
 * Servers that are configured by name, between the configuration and what serves: which addresses they stand for
 * now, that the others hear when that changes, and what is told of it.
 *
 * A name lies beneath everything else that changes servers: reloads and changes at run time add, set and remove the
 * server that has the name, and all its addresses with it; answers of DNS only ever change which addresses there are.
 */
import { isDeepStrictEqual } from "node:util";
import { serverKey } from "../config/lower.ts";
import type { Config } from "../config/schema.ts";
import type { NativeServerStats, NativeStats } from "../native/index.ts";
import { type Expansion, expand, type Named } from "./dns/expand.ts";
import { Names } from "./dns/names.ts";
import type { ResolveEvent } from "./events.ts";
import type { LastCheck } from "./health/monitor.ts";

/** See the module's head. */
export class NamedServers {
  readonly #names: Names;
  #serving: Expansion | undefined;
  /** When a server began to be without an address. */
  readonly #without = new Map<string, Date>();

  /** `onChange`: what stands for a name may be other addresses, or something else is known of it. */
  constructor(onChange: () => void) {
    this.#names = new Names(onChange);
  }

  /** Asks for the names that are new in `config`; a name without an answer is not waited for long. */
  async prepare(config: Config): Promise<void> {
    await this.#names.prepare(config);
  }

  /** What stands for `config` by what is known now. */
  expand(config: Config): Expansion {
    return expand(config, (addr) => this.#names.lookup(addr), this.#serving);
  }

  /** `expansion` of `config` serves from now on. Gives what is to be told. */
  serve(config: Config, expansion: Expansion): ResolveEvent[] {
    const events = [...expansion.named].flatMap(([key, now]) => told(this.#serving?.named.get(key), now));
    const at = new Date();
    for (const [key, { addresses }] of expansion.named) {
      if (addresses.size > 0) this.#without.delete(key);
      else if (!this.#without.has(key)) this.#without.set(key, at);
    }
    for (const key of this.#without.keys()) if (!expansion.named.has(key)) this.#without.delete(key);
    this.#serving = expansion;
    this.#names.follow(config);
    return events;
  }

  /** A server, by `backend/server`, cannot be reached: if it has its address from a name, that is asked for anew. */
  suspect(key: string): void {
    const named = this.#serving?.named.get(this.origin(key));
    if (named !== undefined) this.#names.suspect(named.addr);
  }

  /** The server as configured that `backend/server` stands for: itself, or the one that has the name. */
  origin(key: string): string {
    return this.#serving?.origins.get(key) ?? key;
  }

  /** The servers that `backend/server` stands for, by the names they have in service; undefined where it is no name. */
  addressesOf(key: string): string[] | undefined {
    const named = this.#serving?.named.get(key);
    return named && [...named.addresses.keys()].map((name) => serverKey(named.backend, name));
  }

  /** Servers without an address, and why. */
  without(): { named: Named; check: LastCheck }[] {
    if (this.#without.size === 0) return [];
    return [...(this.#serving?.named ?? [])].flatMap(([key, named]) => {
      const at = this.#without.get(key);
      if (at === undefined) return [];
      return [{ named, check: { at, ok: false, durationMs: 0, cause: causeOf(named) } }];
    });
  }

  /** Why a server has no address, as a check that failed. */
  check(key: string): LastCheck | undefined {
    return this.without().find(({ named }) => serverKey(named.backend, named.server) === key)?.check;
  }

  /** With the servers that have no address, which the data plane does not know of: down, and never used. */
  complete(native: NativeStats): NativeStats {
    const without = this.without();
    if (without.length === 0) return native;
    const backends = native.backends.map((backend) => {
      const missing = without.filter(({ named }) => named.backend === backend.name);
      if (missing.length === 0) return backend;
      const { totalConnections, currentConnections } = backend.counters;
      const none = {
        ...(totalConnections === undefined ? {} : { totalConnections: 0 }),
        ...(currentConnections === undefined ? {} : { currentConnections: 0 }),
        bytesTx: 0,
        bytesRx: 0,
      };
      const servers = missing.map(
        ({ named: { server, addr, backup } }): NativeServerStats => ({
          name: server,
          addr,
          weight: 0,
          effectiveWeight: 0,
          backup,
          up: false,
          draining: false,
          counters: none,
          reasons: [],
        }),
      );
      return { ...backend, servers: [...backend.servers, ...servers] };
    });
    return { ...native, backends };
  }

  close(): void {
    this.#names.close();
  }
}

/** Whether the difference between two expansions of one configuration is one that the data plane must hear of. */
export const servesTheSame = (a: Expansion, b: Expansion): boolean => isDeepStrictEqual(a.config, b.config);

function told(before: Named | undefined, now: Named): ResolveEvent[] {
  const [old, addresses] = [before, now].map((it) => [...(it?.addresses.values() ?? [])]) as [
    string[],
    string[],
  ];
  const same =
    before !== undefined &&
    before.addr === now.addr &&
    before.look.state === now.look.state &&
    before.look.cut === now.look.cut &&
    isDeepStrictEqual(old, addresses) &&
    isDeepStrictEqual(before.leftOut, now.leftOut);
  if (same) return [];
  const { backend, server, addr: name, look } = now;
  return [
    {
      type: "resolve",
      backend,
      server,
      name,
      state: look.state,
      addresses,
      added: addresses.filter((it) => !old.includes(it)),
      removed: old.filter((it) => !addresses.includes(it)),
      cause: causeOf(now),
      at: new Date(),
    },
  ];
}

/** What went wrong, for people; "" for nothing. */
function causeOf({ addr, look, leftOut, addresses }: Named): string {
  const parts = look.state === "resolved" ? [] : [`${addr} ${notHad(look)}`];
  for (const [address, why] of [...leftOut].slice(0, 3)) parts.push(`${address} ${why} and is left out`);
  if (leftOut.size > 3) parts.push(`${leftOut.size - 3} more are left out`);
  if (look.cut) parts.push("it has more addresses than are taken");
  if (parts.length === 0 && addresses.size === 0) parts.push(`${addr} has no address that can be a server`);
  return parts.join("; ");
}

const notHad = ({ state, cause }: Named["look"]): string =>
  state === "failed" ? `cannot be resolved: ${cause}` : `has no address: ${cause}`;
