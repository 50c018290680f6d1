/** The balancer that runs a configuration, if one does. */
import { join } from "node:path";
import type { Config } from "../config/schema.ts";
import type { Host } from "./host.ts";
import type { Running } from "./look.ts";
import { sysctl } from "./sysctl.ts";

/** Asks for what `path` of the running one answers; undefined where none answers. */
export type Ask = (path: string) => Promise<unknown>;

/** @returns undefined where none runs, or none that this user may ask. */
export async function findRunning(host: Host, config: Config, ask: Ask): Promise<Running | undefined> {
  const stats = (await ask("/stats")) as { engine?: string } | undefined;
  if (stats === undefined) return undefined;
  return { pid: ownerOf(host, config), engine: stats.engine };
}

/** Journals name the process of each balancer in a packet mode. */
function ownerOf(host: Host, config: Config): number | undefined {
  const folder = process.env.CONVEY_STATE_DIR || "/run/convey";
  const boot = sysctl(host, "kernel.random.boot_id");
  const ours = new Set(Object.values(config.frontends).map((f) => `${f.protocol} ${f.listen_addr}`));
  for (const name of host.list(folder).filter((file) => /^balancer_.*\.json$/.test(file))) {
    const journal = parsed(host.read(join(folder, name)) ?? "");
    const isAlive = host.list(`/proc/${journal?.pid}/task`).length > 0;
    if (journal?.boot === boot && isAlive && journal?.frontends.some((frontend) => ours.has(frontend)))
      return journal.pid;
  }
  return undefined;
}

function parsed(text: string): { pid: number; boot: string; frontends: string[] } | undefined {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
