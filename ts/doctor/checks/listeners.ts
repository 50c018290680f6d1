/** Who else has the listening addresses: programs that listen there, another Convey. */
import { hostPort, isWildcard, type SocketAddress } from "../../config/address.ts";
import { error, type Found, ok, warning } from "../finding.ts";
import { livingBalancers } from "../journals.ts";
import { type Check, type Frontend, frontends, type Look } from "../look.ts";
import { LISTEN, type ShownSocket, sockets, UNCONNECTED } from "../sockets.ts";

export const listeners: Check = {
  name: "listeners",
  find(look) {
    const open = { tcp: sockets(look.host, "tcp"), udp: sockets(look.host, "udp") };
    const found = frontends(look).flatMap((frontend) => [
      ...program(look, frontend, open[frontend.protocol]),
      ...balancer(look, frontend),
    ]);
    if (found.length > 0) return found;
    return [
      ok("nobody else has the listening addresses", "/proc/net/tcp, /proc/net/udp and journals of balancers"),
    ];
  },
};

/** One on [::] takes IPv4 as well, unless it was told not to. */
function overlaps(local: SocketAddress, listen: SocketAddress): boolean {
  if (local.host === listen.host) return true;
  if (isWildcard(local)) return local.family === 6 || listen.family === 4;
  return isWildcard(listen) && local.family === listen.family;
}

function program(
  { config, running }: Look,
  { name, protocol, listen }: Frontend,
  open: readonly ShownSocket[],
): Found[] {
  // In proxy mode the balancer listens there itself.
  if (config.mode === "proxy" && running !== undefined) return [];
  const state = protocol === "tcp" ? LISTEN : UNCONNECTED;
  const other = open.find(
    ({ local, ...socket }) => socket.state === state && local.port === listen.port && overlaps(local, listen),
  );
  if (other === undefined) return [];
  const told = {
    subject: name,
    title: `another program of this host has ${protocol} ${hostPort(listen)}`,
    evidence: `/proc/net/${protocol}: a socket at ${hostPort(other.local)}`,
    remedy: `ss -${protocol === "tcp" ? "lt" : "lu"}np 'sport = :${listen.port}'   # names the program; stop it, or change where frontend ${name} listens`,
  };
  if (config.mode === "proxy")
    return [error({ ...told, consequence: "The start is refused: the address is in use." })];
  return [
    warning({ ...told, consequence: "Its clients reach the backend instead, for as long as Convey runs." }),
  ];
}

/** A running balancer of this configuration is the one that has them. */
function balancer({ host, running }: Look, { name, protocol, listen }: Frontend): Found[] {
  if (running !== undefined) return [];
  const service = `${protocol} ${hostPort(listen)}`;
  return livingBalancers(host)
    .filter((journal) => journal.frontends.includes(service))
    .map(({ pid }) =>
      error({
        subject: name,
        title: `another convey serves ${service}`,
        evidence: `its journal in the state folder: process ${pid}`,
        consequence: "The start is refused.",
        remedy: `kill -TERM ${pid}`,
      }),
    );
}
