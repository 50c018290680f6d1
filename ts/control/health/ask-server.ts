/** One check of a server at an address of its own, by whatever its backend asks. */
import { askByDatagram } from "./datagram.ts";
import type { CheckTarget } from "./monitor.ts";
import type { GiveUp, Outcome } from "./outcome.ts";
import { type OpenFrom, probeTcp } from "./probe.ts";
import { askByStream } from "./stream.ts";

const CONNECT = { kind: "connect", tls: undefined } as const;

/**
 * Asks once; `done` is called once, later, unless the returned function was called before. `openFrom` makes the sockets
 * of servers that are asked from an address of their backend's.
 */
export function askServer(
  target: CheckTarget,
  done: (outcome: Outcome) => void,
  openFrom?: OpenFrom,
): GiveUp {
  const { host, port, at = { host, port }, ask } = target;
  // Unix sockets are asked by no datagram: the configuration is refused.
  if (ask?.kind === "datagram") {
    return "port" in at ? askByDatagram(at, ask, done) : askByStream(at, CONNECT, done, target);
  }
  if (ask === undefined && "port" in at) return probeTcp(at.host, at.port, done, target, openFrom);
  return askByStream(at, ask ?? CONNECT, done, target, openFrom);
}
