/** What the balancer's checks look at: the host, the configuration, and what the data plane says of both. */
import type { SocketAddress } from "../config/address.ts";
import { listenAddresses } from "../config/listen.ts";
import type { Config } from "../config/schema.ts";
import { parseServerAddress } from "../config/server-address.ts";
import type { NativeHostReport } from "../native/index.ts";
import type { Found } from "./finding.ts";
import type { Host } from "./host.ts";
import type { Network } from "./network.ts";

export interface Look {
  host: Host;
  network: Network;
  config: Config;
  /** What a start would find; `refusal` where the data plane would not start at all. */
  report: NativeHostReport | undefined;
  /** Why there is no report. */
  refusal: string | undefined;
  /** The balancer that runs this configuration; undefined where none does. */
  running: Running | undefined;
}

export interface Running {
  pid: number | undefined;
  /** The engine at work; undefined in proxy mode. */
  engine: string | undefined;
  /** Its process where it runs in another network namespace; what is looked at is not its network then. */
  elsewhere?: number | undefined;
}

/** A check: its stable name, where it applies, and what it finds. */
export interface Check {
  name: string;
  modes?: readonly Config["mode"][];
  find(look: Look): Found[] | Promise<Found[]>;
}

export const PACKET_MODES: readonly Config["mode"][] = ["passthrough", "dsr"];

export interface Frontend {
  name: string;
  protocol: "tcp" | "udp";
  listen: SocketAddress;
  backend: string;
}

export interface Server {
  /** `backend/server`. */
  key: string;
  backend: string;
  address: SocketAddress;
  /** How packets reach it in dsr mode. */
  method: "rewrite" | "l2";
}

/** Each frontend as often as it has addresses and ports. */
export function frontends({ config }: Look): Frontend[] {
  return Object.entries(config.frontends).flatMap(([name, { protocol, backend, ...its }]) =>
    listenAddresses(its).map((listen) => ({ name, protocol, backend, listen })),
  );
}

/** Servers that a frontend uses and that have a weight. */
export function servers({ config }: Look): Server[] {
  const used = new Set(Object.values(config.frontends).map(({ backend }) => backend));
  return Object.entries(config.backends)
    .filter(([backend]) => used.has(backend))
    .flatMap(([backend, { servers, dsr_method }]) =>
      Object.entries(servers)
        .filter(([, { weight }]) => weight > 0)
        .flatMap(([name, { addr }]) => {
          const address = parseServerAddress(addr);
          // Names and Unix sockets are not looked at.
          if (!address.ok || address.value.kind !== "ip") return [];
          const method = dsr_method ?? config.dsr.method;
          return [{ key: `${backend}/${name}`, backend, address: address.value, method }];
        }),
    );
}

/** The engine at work, or the one that a start would take: of kernel programs only where they may be loaded. */
export function engineTaken({ report, running, host, config }: Look): string {
  if (running?.engine !== undefined) return running.engine;
  if (config.engine !== "auto") return config.engine;
  const first = report?.engine ?? "";
  return first !== "af_packet" && host.kernel().bpfRefused !== "" ? "af_packet" : first;
}

/** Whether a program in the kernel forwards. */
export const isKernelEngine = (engine: string): boolean => engine === "tc" || engine === "xdp";
