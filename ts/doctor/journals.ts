/** Balancers in a packet mode that run in this network namespace, as their journals tell. */
import { join } from "node:path";
import type { Host } from "./host.ts";
import { sysctl } from "./sysctl.ts";

export interface Journal {
  pid: number;
  /** "tcp 10.0.0.1:80". */
  frontends: string[];
}

/** Those whose process lives. */
export function livingBalancers(host: Host): Journal[] {
  const folder = process.env.CONVEY_STATE_DIR || "/run/convey";
  const boot = sysctl(host, "kernel.random.boot_id");
  const here = host.link("/proc/self/ns/net");
  return host
    .list(folder)
    .filter((file) => /^balancer_.*\.json$/.test(file))
    .flatMap((file) => parsed(host.read(join(folder, file)) ?? ""))
    .filter((journal) => journal.boot === boot && host.link(`/proc/${journal.pid}/ns/net`) === here);
}

function parsed(text: string): (Journal & { boot: string })[] {
  try {
    return [JSON.parse(text)];
  } catch {
    return [];
  }
}
