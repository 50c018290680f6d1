/** The balancer of the packet labs, behind one function, so that what runs there is decided in one place. */
import { type Running, start, succeed, until } from "../../support/processes.ts";
import type { PacketLab } from "./lab.ts";

export type PacketMode = "passthrough" | "dsr" | "l2";

export interface PacketFrontend {
  protocol?: "tcp" | "udp";
  /** `address:port` */
  listen: string;
  /** `address:port` of each server. */
  servers: readonly string[];
}

export interface BalancerOptions {
  mode: PacketMode;
  frontends: readonly PacketFrontend[];
  workers?: number;
}

export interface PacketStats {
  forwarded: number;
  flows: number;
  panics: number;
  replied: Record<string, number>;
  passed: Record<string, number>;
  dropped: Record<string, number>;
}

/** NAT ports of every balancer in a lab. */
export const NAT_PORTS = "33768-61000";

type Profile = "dev" | "release";

const built = new Map<Profile, Promise<string>>();

/**
 * Path of an example program of the engine; builds the examples when they are stale. For what is not measured the
 * profile of `cargo test` does, which has its libraries built already and checks overflows too.
 */
export async function example(name: string, profile: Profile = "dev"): Promise<string> {
  const folder = built.get(profile) ?? buildExamples(profile);
  built.set(profile, folder);
  return `${await folder}/${name}`;
}

async function buildExamples(profile: Profile): Promise<string> {
  const what = ["--profile", profile, "-p", "convey-afpacket", "--examples", "--message-format=json"];
  const out = await succeed(["cargo", "build", ...what], { timeoutMs: 600_000 });
  const folder = /"executable":"([^"]+)\/forward"/.exec(out)?.[1];
  if (folder === undefined) throw new Error("cargo built the examples but named no executable");
  return folder;
}

/** A balancer at work in a lab. `await using` ends it. */
export class PacketBalancer implements AsyncDisposable {
  readonly process: Running;
  readonly #lab: PacketLab;

  constructor(process: Running, lab: PacketLab) {
    this.process = process;
    this.#lab = lab;
  }

  /** The counters as they are now. */
  async stats(): Promise<PacketStats> {
    const seen = this.process.stdout.length;
    this.process.child.stdin?.write("\n");
    const line = await until(
      () => /^\{.*\}$/m.exec(this.process.stdout.slice(seen))?.[0],
      "statistics",
      5_000,
      () => this.process.output(),
    );
    return JSON.parse(line) as PacketStats;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.process.stop("SIGTERM");
    await this.#lab.sh("balancer", "nft delete table netdev convey_lab 2>/dev/null || true");
  }
}

/** Starts a balancer and waits until it forwards. */
export async function startBalancer(lab: PacketLab, options: BalancerOptions): Promise<PacketBalancer> {
  await keepKernelOut(lab, options);
  const args = ["--mode", options.mode, "--workers", String(options.workers ?? 2), "--nat-ports", NAT_PORTS];
  for (const { protocol, listen, servers } of options.frontends) {
    args.push(`${protocol ?? "tcp"}:${listen}=${servers.join(",")}`);
  }
  const process = start(lab.at("balancer", await example("forward"), ...args), { stdin: true });
  try {
    await process.waitFor(/^ready$/m);
  } catch (error) {
    await process.stop("SIGKILL");
    throw error;
  }
  return new PacketBalancer(process, lab);
}

/** The kernel must not answer what the engine forwards: dropped at ingress, after the engine has seen it. */
async function keepKernelOut(lab: PacketLab, options: BalancerOptions): Promise<void> {
  const rules = options.frontends.flatMap(({ protocol = "tcp", listen }) => {
    const at = listen.lastIndexOf(":");
    const address = listen.slice(0, at).replace(/^\[(.*)\]$/, "$1");
    const family = address.includes(":") ? "ip6" : "ip";
    const port = (what: string) => `${family} daddr ${address} ${protocol} dport ${what} drop`;
    return options.mode === "passthrough"
      ? [port(listen.slice(at + 1)), port(NAT_PORTS)]
      : [port(listen.slice(at + 1))];
  });
  const chains = lab
    .balancerDevices()
    .map((d) => `chain in_${d} { type filter hook ingress device ${d} priority 0; ${rules.join("\n")}\n}`);
  await lab.sh("balancer", `nft 'table netdev convey_lab { ${chains.join("\n")}\n}'`);
}
