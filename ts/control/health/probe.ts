/**
 * One TCP connect, closed as soon as it stands. The close is an orderly FIN: a reset would spare us a
 * TIME_WAIT entry but makes most servers log "connection reset by peer" at every check.
 */
import { Socket } from "node:net";

/**
 * How a check ended. `local`: we, not the server, were at fault, and nothing was learnt about it. `durationMs` where
 * the probe took the time itself; `cause` of success where there is more to say than that it connected; `silent` when
 * its whole time passed without a word.
 */
export type Outcome =
  | { kind: "ok"; cause?: string; durationMs?: number }
  | { kind: "failed"; cause: string; durationMs?: number; silent?: boolean }
  | { kind: "local"; cause: string };

const OK: Outcome = { kind: "ok" };

const CAUSES: Record<string, string> = {
  ECONNREFUSED: "connection refused",
  ECONNRESET: "connection reset",
  EHOSTUNREACH: "host unreachable",
  ENETUNREACH: "network unreachable",
  ETIMEDOUT: "connect timed out",
};

const LOCAL_CAUSES: Record<string, string> = {
  EMFILE: "this process has no file descriptors left",
  ENFILE: "this machine has no file descriptors left",
  ENOBUFS: "this machine has no buffer space left",
  ENOMEM: "this machine has no memory left",
  EADDRNOTAVAIL: "this machine has no free source port or address",
  EAGAIN: "this machine has no free source port",
  EACCES: "this machine does not permit the connect",
  EPERM: "this machine does not permit the connect",
};

/** How a connect begins. */
export type Beginning = {
  /** The address it starts from. */
  source?: string | undefined;
  /** What is sent as soon as it stands. */
  header?: Buffer | undefined;
};

/** Makes a socket that starts from this address, and returns its descriptor. Throws when the host has no such address. */
export type OpenFrom = (source: string) => number;

/** Connects once; `done` is called once, later, unless the returned function was called before. */
export function probeTcp(
  host: string,
  port: number,
  done: (outcome: Outcome) => void,
  { source, header }: Beginning = {},
  openFrom?: OpenFrom,
): () => void {
  let socket: Socket;
  try {
    socket = open(source, openFrom);
  } catch (error) {
    const cause = `this machine cannot connect from ${source}: ${(error as Error).message}`;
    const later = setImmediate(() => done({ kind: "local", cause }));
    return () => clearImmediate(later);
  }
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
    if (header !== undefined) socket.write(header);
    finish(OK);
  });
  socket.connect({ host, port, autoSelectFamily: false });
  socket.unref();
  return () => {
    settled = true;
    socket.destroy();
  };
}

// Node's own localAddress takes a port with the address, which then serves this one connect while it is remembered; and
// it is one of those that connections need.
function open(source: string | undefined, openFrom: OpenFrom | undefined): Socket {
  if (source === undefined || openFrom === undefined) return new Socket();
  return new Socket({ fd: openFrom(source), writable: true });
}

const SELF_CONNECT: Outcome = { kind: "failed", cause: "connection refused (the connect met itself)" };

// A connect to a closed local port within the ephemeral range can be given that very port as its source and
// succeed, by TCP's simultaneous open.
function connectedToItself(socket: Socket, port: number): boolean {
  // The port first: each property is a system call.
  return socket.localPort === port && socket.localAddress === socket.remoteAddress;
}

function outcomeOf(error: NodeJS.ErrnoException): Outcome {
  const code = error.code ?? "";
  const local = LOCAL_CAUSES[code];
  if (local !== undefined) return { kind: "local", cause: `${local} (${code})` };
  const cause = CAUSES[code];
  return { kind: "failed", cause: cause === undefined ? error.message : `${cause} (${code})` };
}
