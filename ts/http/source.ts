/** What the routes may ask of a balancer and have it do; the one place that ties them to it. */
import type { Config } from "../config/schema.ts";
import type { Balancer } from "../control/balancer.ts";
import type { BalancerEvent } from "../control/events.ts";
import type { Explanation } from "../control/explain.ts";
import type { DrainResult, ReloadResult } from "../control/options.ts";
import type { Readiness } from "../control/readiness.ts";
import type { Stats } from "../control/stats.ts";

/** Methods reject or throw a ConveyError, as those of `Balancer` do. */
export type AdminSource = {
  stats: () => Stats;
  readiness: () => Readiness;
  /** The configuration in service. */
  config: () => Config;
  /** What would become of a packet. */
  explain: (protocol: string, source: string, destination: string) => Promise<Explanation>;
  /** Events from this call on. */
  events: () => AsyncIterableIterator<BalancerEvent, undefined>;
  drain: (server: string, options: { deadlineMs?: number }) => Promise<DrainResult>;
  enable: (server: string) => void;
  setWeight: (server: string, weight: number | null) => void;
  /** Reads the configuration again; absent when it came from no file. */
  reload?: () => Promise<ReloadResult>;
};

/** `fromFile` says whether there is a file to read again. */
export function adminSource(
  balancer: Balancer,
  { fromFile, readiness }: { fromFile: boolean; readiness: () => Readiness },
): AdminSource {
  return {
    stats: () => balancer.stats(),
    readiness,
    config: () => balancer.config,
    explain: (...question) => balancer.explain(...question),
    events: () => balancer.events(),
    drain: (server, options) => balancer.drain(server, options),
    enable: (server) => balancer.enable(server),
    setWeight: (server, weight) => balancer.setWeight(server, weight),
    ...(fromFile ? { reload: () => balancer.reload() } : {}),
  };
}
