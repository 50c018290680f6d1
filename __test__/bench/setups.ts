/** What stands in the lab for a work: how the balancer is told to balance, and what servers and clients do for it. */
import { join } from "node:path";
import type { Work } from "./options.ts";

export type Setup = "plain" | "mixed" | "idle" | "connect-proxy" | "connect-sni" | "connect-log";

/** The name asked for by {@link HELLO}. */
export const SERVER_NAME = "app.example.com";

/** A ClientHello as Chromium sent it. */
export const HELLO = join(
  import.meta.dirname,
  "../../crates/convey-proxy/tests/fixtures/client_hello/chromium.bin",
);

/** Connections from one address to another are at most as many as ports; this many leave most of them free. */
const PAIRS_AN_ADDRESS = 25_000;

/** The works by what they need, in the order asked for; those that share a lab come together. */
export function bySetup(works: readonly Work[]): Map<Setup, Work[]> {
  const groups = new Map<Setup, Work[]>();
  for (const work of works) {
    const setup = setupOf(work);
    groups.set(setup, [...(groups.get(setup) ?? []), work]);
  }
  return groups;
}

function setupOf(work: Work): Setup {
  switch (work) {
    case "mixed":
    case "idle":
    case "connect-proxy":
    case "connect-sni":
    case "connect-log":
      return work;
    default:
      return "plain";
  }
}

/** The hosts of `network` ("10.77.2") from .10 on that so many pairs need; the first 25,000 need none. */
export function furtherAddresses(network: string, pairs: number): string[] {
  const count = Math.ceil(pairs / PAIRS_AN_ADDRESS) - 1;
  return Array.from({ length: count }, (_, i) => `${network}.${10 + i}`);
}

/** Why a process that may open `limit` files cannot hold so many pairs, two files each; undefined when it can. */
export function tooManyPairs(pairs: number, limit: number): string | undefined {
  const needed = 2 * pairs + 500;
  return needed <= limit
    ? undefined
    : `${pairs} pairs need ${needed} open files a process, the limit (ulimit -Hn) is ${limit}`;
}

/** The hard limit on open files in the text of /proc/self/limits. */
export function openFiles(limits: string): number {
  const hard = /^Max open files\s+\S+\s+(\S+)/m.exec(limits)?.[1];
  return hard === "unlimited" ? Number.POSITIVE_INFINITY : Number(hard);
}
