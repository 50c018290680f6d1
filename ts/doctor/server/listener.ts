/** Whether a program takes what the balancer sends. */
import { hostPort, isWildcard, type SocketAddress } from "../../config/address.ts";
import { error, ok } from "../finding.ts";
import { LISTEN, sockets, UNCONNECTED } from "../sockets.ts";
import type { ServerCheck } from "./look.ts";

export const listener: ServerCheck = {
  name: "listener",
  find({ host, protocol, vip, method, report }) {
    // A packet arrives at the VIP with l2, at the server's own address with rewrite.
    const at: SocketAddress = method === "l2" ? vip : { ...vip, host: report.server };
    const wanted = protocol === "tcp" ? LISTEN : UNCONNECTED;
    const all = sockets(host, protocol).filter(
      ({ local, state }) => state === wanted && local.port === vip.port,
    );
    // One on [::] takes IPv4 as well, unless it was told not to.
    const takes = ({ local }: { local: SocketAddress }): boolean =>
      local.host === at.host || (isWildcard(local) && (local.family === at.family || local.family === 6));
    const evidence = `/proc/net/${protocol}: ${all.length === 0 ? `no socket listens on port ${vip.port}` : `listening on ${all.map(({ local }) => hostPort(local)).join(", ")}`}`;
    if (all.some(takes)) return [ok(`a program listens for ${protocol} ${hostPort(at)}`, evidence)];
    return [
      error({
        subject: hostPort(at),
        title:
          all.length === 0
            ? `nothing listens on ${protocol} port ${vip.port}`
            : `nothing listens on ${hostPort(at)}`,
        evidence,
        consequence: "Connections that the balancer sends here are refused.",
        remedy: `start the service, or have it listen on ${at.family === 4 ? "0.0.0.0" : "[::]"}:${vip.port}`,
      }),
    ];
  },
};
