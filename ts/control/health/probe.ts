/**
 * One TCP connect, closed as soon as it stands. The close is an orderly FIN: a reset would spare us a
 * TIME_WAIT entry but makes most servers log "connection reset by peer" at every check.
 */
import { Socket } from "node:net";
import { type Outcome, outcomeOf } from "./outcome.ts";

const OK: Outcome = { kind: "ok" };

/** Connects once; `done` is called once, later, unless the returned function was called before. */
export function probeTcp(host: string, port: number, done: (outcome: Outcome) => void): () => void {
  const socket = new Socket();
  let settled = false;
  const finish = (outcome: Outcome): void => {
    if (settled) return;
    settled = true;
    socket.destroy();
    done(outcome);
  };
  // Paused before it connects, the socket is never armed for reading: half the epoll work of a check.
  socket.pause();
  socket.on("error", (error: NodeJS.ErrnoException) => finish(outcomeOf(error)));
  socket.on("connect", () => finish(connectedToItself(socket, port) ? SELF_CONNECT : OK));
  socket.connect({ host, port, autoSelectFamily: false });
  socket.unref();
  return () => {
    settled = true;
    socket.destroy();
  };
}

export const SELF_CONNECT: Outcome = { kind: "failed", cause: "connection refused (the connect met itself)" };

/**
 * A connect to a closed local port within the ephemeral range can be given that very port as its source and
 * succeed, by TCP's simultaneous open.
 */
export function connectedToItself(socket: Socket, port: number): boolean {
  // The port first: each property is a system call.
  return socket.localPort === port && socket.localAddress === socket.remoteAddress;
}
