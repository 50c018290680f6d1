/** What the checks of a DSR server look at. */
import type { SocketAddress } from "../../config/address.ts";
import type { NativeDsrServerReport } from "../../native/index.ts";
import type { Found } from "../finding.ts";
import type { Host } from "../host.ts";
import type { Network } from "../network.ts";

export interface ServerLook {
  host: Host;
  network: Network;
  vip: SocketAddress;
  protocol: "tcp" | "udp";
  method: "rewrite" | "l2";
  /** What preparing lacks, with the server's address and where its answers leave. */
  report: NativeDsrServerReport;
  /** The command that prepares this server. */
  prepare: string;
}

export interface ServerCheck {
  name: string;
  methods?: readonly ServerLook["method"][];
  find(look: ServerLook): Found[] | Promise<Found[]>;
}

/** The device that has the server's own address: there packets of the balancer arrive. */
export async function home({ network, report }: ServerLook): Promise<string | undefined> {
  return (await network.addresses()).find(({ address }) => address === report.server)?.device;
}
