/** The fixed rate at which latencies are compared: half of the best peer's, measured on this machine before the rounds. */
import type { Options, Profile } from "./options.ts";
import type { Peer } from "./peers.ts";
import { visit } from "./visit.ts";

/** The same rate for every peer, or why there is none. */
export type HalfLoad =
  | { requestsPerS: number; best: string; measured: Readonly<Record<string, number>> }
  | { reason: string };

/** Half of the highest of the rates measured, in requests a second by peer. */
export function halfOf(measured: Readonly<Record<string, number>>): HalfLoad {
  const [best, rate] = Object.entries(measured).sort(([, a], [, b]) => b - a)[0] ?? [];
  if (best === undefined || rate === undefined || !(rate > 0))
    return { reason: "no peer's rate could be measured without stolen time" };
  return { requestsPerS: Math.round(rate / 2), best, measured };
}

/** Visits every balancer once for its rate at saturation. */
export async function halfLoad(
  peers: readonly Peer[],
  profile: Profile,
  offloads: boolean,
  options: Options,
): Promise<HalfLoad> {
  if (!options.works.includes("half")) return { reason: "it was not asked for" };
  const measured: Record<string, number> = {};
  for (const peer of peers.filter(({ command }) => command !== undefined)) {
    console.error(`rate of ${peer.name}, to take half of the best`);
    const only = { ...options, works: ["keepalive"] as const };
    const { figures } = await visit(peer, profile, offloads, only, undefined);
    if (figures.keepalive_requests_per_s !== undefined)
      measured[peer.name] = figures.keepalive_requests_per_s;
  }
  return halfOf(measured);
}
