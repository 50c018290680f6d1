/** One check of a server at an address of its own, by whatever its backend asks. */
import { askByDatagram } from "./datagram.ts";
import type { CheckTarget } from "./monitor.ts";
import type { GiveUp, Outcome } from "./outcome.ts";
import { probeTcp } from "./probe.ts";
import { askByStream } from "./stream.ts";

const CONNECT = { kind: "connect", tls: undefined } as const;

/** Asks once; `done` is called once, later, unless the returned function was called before. */
export function askServer(target: CheckTarget, done: (outcome: Outcome) => void): GiveUp {
  const { host, port, at = { host, port }, ask, first } = target;
  // Unix sockets are asked by no datagram: the configuration is refused.
  if (ask?.kind === "datagram") {
    return "port" in at ? askByDatagram(at, ask, done) : askByStream(at, CONNECT, first, done);
  }
  if (ask === undefined && first === undefined && "port" in at) return probeTcp(at.host, at.port, done);
  return askByStream(at, ask ?? CONNECT, first, done);
}
