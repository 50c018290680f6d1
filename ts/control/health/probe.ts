/**
 * One TCP connect, closed as soon as it stands. The close is an orderly FIN: a reset would spare us a
 * TIME_WAIT entry but makes most servers log "connection reset by peer" at every check.
 */
import { Socket } from "node:net";
import { type Outcome, outcomeOf } from "./outcome.ts";

const OK: Outcome = { kind: "ok" };

/** How a connect begins. */
export type Beginning = {
  /** The address it starts from. */
  source?: string | undefined;
  /** What is sent as soon as it stands. */
  first?: Uint8Array | undefined;
};

/** Makes a socket that starts from this address, and returns its descriptor. Throws when the host has no such address. */
export type OpenFrom = (source: string) => number;

/** Connects once; `done` is called once, later, unless the returned function was called before. */
export function probeTcp(
  host: string,
  port: number,
  done: (outcome: Outcome) => void,
  { source, first }: Beginning = {},
  openFrom?: OpenFrom,
): () => void {
  const opened = openSocket(source, openFrom);
  if ("failure" in opened) return failLater(opened.failure, done);
  const { socket } = opened;
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
  socket.on("connect", () => {
    if (connectedToItself(socket, port)) return finish(SELF_CONNECT);
    // So short a write is the kernel's before the call returns.
    if (first !== undefined) socket.write(first);
    finish(OK);
  });
  socket.connect({ host, port, autoSelectFamily: false });
  socket.unref();
  return () => {
    settled = true;
    socket.destroy();
  };
}

/**
 * A socket that is to connect from `source`, or why there is none. Node's own localAddress takes a port with the address,
 * which then serves this one connect while it is remembered; and it is one of those that connections need.
 */
export function openSocket(
  source: string | undefined,
  openFrom: OpenFrom | undefined,
): { socket: Socket } | { failure: Outcome } {
  if (source === undefined || openFrom === undefined) return { socket: new Socket() };
  try {
    return { socket: new Socket({ fd: openFrom(source), writable: true }) };
  } catch (error) {
    const cause = `this machine cannot connect from ${source}: ${(error as Error).message}`;
    return { failure: { kind: "local", cause } };
  }
}

/** Tells the outcome of what could not begin, as all others: later, unless it is given up before. */
export function failLater(failure: Outcome, done: (outcome: Outcome) => void): () => void {
  const later = setImmediate(() => done(failure));
  return () => clearImmediate(later);
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
