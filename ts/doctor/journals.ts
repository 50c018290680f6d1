/** Balancers in a packet mode, as their journals tell. */
import { join } from "node:path";
import type { Host } from "./host.ts";
import { sysctl } from "./sysctl.ts";

export interface Journal {
  pid: number;
  /** "tcp 10.0.0.1:80". */
  frontends: string[];
}

/** Those whose process lives in this network namespace. */
export function livingBalancers(host: Host): Journal[] {
  const here = host.link("/proc/self/ns/net");
  return journals(host).filter(({ pid }) => networkOf(host, pid) === here);
}

/** Those whose process lives in another one, as far as this user may see that. */
export function balancersElsewhere(host: Host): Journal[] {
  const here = host.link("/proc/self/ns/net");
  return journals(host).filter(({ pid }) => ![here, undefined].includes(networkOf(host, pid)));
}

const networkOf = (host: Host, pid: number): string | undefined => host.link(`/proc/${pid}/ns/net`);

function journals(host: Host): Journal[] {
  const folder = process.env.CONVEY_STATE_DIR || "/run/convey";
  const boot = sysctl(host, "kernel.random.boot_id");
  return host
    .list(folder)
    .filter((file) => /^balancer_.*\.json$/.test(file))
    .flatMap((file) => parsed(host.read(join(folder, file)) ?? ""))
    .filter((journal) => journal.boot === boot);
}

function parsed(text: string): (Journal & { boot: string })[] {
  try {
    return [JSON.parse(text)];
  } catch {
    return [];
  }
}
