/** What the routes may ask of a balancer and have it do; the one place that ties them to it. */
import type { z } from "@hono/zod-openapi";
import type { Config } from "../config/schema.ts";
import type { Balancer } from "../control/balancer.ts";
import type { Explanation, HelloQuestion } from "../control/explain.ts";
import type { FlowFilter, FlowPage, FlowPageOptions } from "../control/flows.ts";
import type { LiveDecision, LiveOptions } from "../control/live.ts";
import type { LiveFeed } from "../control/live-feed.ts";
import type { DrainResult } from "../control/options.ts";
import type { Readiness } from "../control/readiness.ts";
import type { Stats } from "../control/stats.ts";
import type { MetricsFormat } from "../metrics/family.ts";
import { EventFeed } from "./event-feed.ts";
import type {
  changeResultSchema,
  planSchema,
  reloadResultSchema,
  removeResultSchema,
} from "./schemas/change.ts";
import type { newServerSchema, newServersSchema } from "./schemas/server.ts";

type ChangeResult = z.output<typeof changeResultSchema>;

/** Methods reject or throw a ConveyError, as those of `Balancer` do. */
export type AdminSource = {
  stats: () => Stats;
  /** Frames for those who look on, and what is kept of servers. */
  live: Pick<LiveFeed, "open" | "history">;
  readiness: () => Readiness;
  /** Every metric, as text. */
  metrics: (format: MetricsFormat) => Promise<string>;
  /** The configuration in service. */
  config: () => Config;
  /** What would become of a packet. */
  explain: (
    protocol: string,
    source: string,
    destination: string,
    hello: HelloQuestion,
  ) => Promise<Explanation>;
  /** All events, with numbers. */
  events: () => EventFeed;
  drain: (server: string, how: { deadlineMs?: number; jitterMs?: number }) => Promise<DrainResult>;
  enable: (server: string) => void;
  setWeight: (server: string, weight: number | null) => void;
  addServer: (backend: string, server: z.output<typeof newServerSchema>) => Promise<ChangeResult>;
  removeServer: (
    server: string,
    how: { deadlineMs?: number },
  ) => Promise<z.output<typeof removeResultSchema>>;
  setServers: (backend: string, servers: z.output<typeof newServersSchema>) => Promise<ChangeResult>;
  plan: (
    source: { configFile: string } | { toml: string; file?: string | undefined },
  ) => Promise<z.output<typeof planSchema>>;
  confirmReload: () => Promise<z.output<typeof reloadResultSchema>>;
  reload: (how: { confirmMs?: number }) => Promise<z.output<typeof reloadResultSchema>>;
  flows: (filter: FlowFilter, page: FlowPageOptions) => Promise<FlowPage>;
  killFlows: (filter: FlowFilter) => Promise<{ killed: number }>;
  explainLive: (filter: FlowFilter, options: LiveOptions) => AsyncIterator<LiveDecision, undefined>;
  /** Where the configuration came from; undefined when that was no file. */
  file: string | undefined;
};

/** `file` is where its configuration came from, if that was one. */
export function adminSource(
  balancer: Balancer,
  { file, ...parts }: Pick<AdminSource, "file" | "live" | "readiness">,
): AdminSource {
  let feed: EventFeed | undefined;
  return {
    ...parts,
    stats: () => balancer.stats(),
    metrics: (format) => balancer.metrics(format),
    config: () => balancer.config,
    explain: (...question) => balancer.explain(...question),
    events: () => {
      feed ??= new EventFeed(balancer.events());
      return feed;
    },
    drain: (server, how) => balancer.drain(server, how),
    enable: (server) => balancer.enable(server),
    setWeight: (server, weight) => balancer.setWeight(server, weight),
    addServer: (backend, server) => balancer.addServer(backend, server),
    removeServer: (server, how) => balancer.removeServer(server, how),
    setServers: (backend, servers) => balancer.setServers(backend, servers),
    plan: (source) => {
      if ("configFile" in source) return balancer.plan(source);
      const { toml, file: name } = source;
      return balancer.plan(name === undefined ? { toml } : { toml, file: name });
    },
    confirmReload: () => balancer.confirmReload(),
    reload: (how) => balancer.reload(how),
    flows: (filter, page) => balancer.flows(filter, page),
    explainLive: (filter, options) => balancer.explainLive(filter, options),
    killFlows: (filter) => balancer.killFlows(filter),
    file,
  };
}
