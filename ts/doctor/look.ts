/** What the balancer's checks look at: the host, the configuration, and what the data plane says of both. */
import type { SocketAddress } from "../config/address.ts";
import { backendsOf } from "../config/hello-routes.ts";
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

/** Servers that a frontend uses and that have a weight, as they are written. */
export function backendServers({
  config,
}: Look): { key: string; backend: string; addr: string; resolve: "all" | "first" }[] {
  const used = new Set(Object.values(config.frontends).flatMap(backendsOf));
  return Object.entries(config.backends)
    .filter(([backend]) => used.has(backend))
    .flatMap(([backend, { servers }]) =>
      Object.entries(servers)
        .filter(([, { weight }]) => weight > 0)
        .map(([name, { addr, resolve = "all" }]) => ({ key: `${backend}/${name}`, backend, addr, resolve })),
    );
}

/** Of these, those that are IP addresses. */
export function servers(look: Look): Server[] {
  const { backends, dsr } = look.config;
  return backendServers(look).flatMap(({ key, backend, addr }) => {
    const address = parseServerAddress(addr);
    if (!address.ok || address.value.kind !== "ip") return [];
    return [{ key, backend, address: address.value, method: backends[backend]?.dsr_method ?? dsr.method }];
  });
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
