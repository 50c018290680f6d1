/** The balancer that runs a configuration, if one does. */
import { hostPort } from "../config/address.ts";
import { listenAddresses } from "../config/listen.ts";
import type { Config } from "../config/schema.ts";
import type { Host } from "./host.ts";
import { balancersElsewhere, type Journal, livingBalancers } from "./journals.ts";
import type { Running } from "./look.ts";

/** Asks for what `path` of the running one answers; undefined where none answers. */
export type Ask = (path: string) => Promise<unknown>;

/** @returns undefined where none runs, or none that this user may ask. */
export async function findRunning(host: Host, config: Config, ask: Ask): Promise<Running | undefined> {
  const stats = (await ask("/stats")) as { engine?: string } | undefined;
  if (stats === undefined) return undefined;
  const ours = new Set(
    Object.values(config.frontends).flatMap((f) =>
      listenAddresses(f).map((address) => `${f.protocol} ${hostPort(address)}`),
    ),
  );
  const runsIt = ({ frontends }: Journal): boolean => frontends.some((frontend) => ours.has(frontend));
  const here = livingBalancers(host).find(runsIt);
  const elsewhere = here === undefined ? balancersElsewhere(host).find(runsIt) : undefined;
  return { pid: here?.pid, engine: stats.engine, elsewhere: elsewhere?.pid };
}
