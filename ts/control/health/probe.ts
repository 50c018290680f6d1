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

/** What speaks against a server on a Unix socket, and of a TCP server would be this machine's fault. */
const UNIX_CAUSES: Record<string, string> = {
  ENOENT: "no such socket",
  EACCES: "permission denied",
  EPERM: "permission denied",
  EAGAIN: "its queue of connections is full",
  EPROTOTYPE: "no stream socket",
};

/** Connects once, to a port or with `unix:path` in the place of the host; `done` is called once, later, unless the returned function was called before. */
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
  const unix = unixPath(host);
  socket.on("error", (error: NodeJS.ErrnoException) =>
    finish(unix === undefined ? outcomeOf(error) : unixOutcomeOf(error)),
  );
  socket.on("connect", () => finish(connectedToItself(socket, port) ? SELF_CONNECT : OK));
  if (unix === undefined) socket.connect({ host, port, autoSelectFamily: false });
  else socket.connect({ path: unix });
  socket.unref();
  return () => {
    settled = true;
    socket.destroy();
  };
}

const SELF_CONNECT: Outcome = { kind: "failed", cause: "connection refused (the connect met itself)" };

// A connect to a closed local port within the ephemeral range can be given that very port as its source and
// succeed, by TCP's simultaneous open.
function connectedToItself(socket: Socket, port: number): boolean {
  // The port first: each property is a system call.
  return socket.localPort === port && socket.localAddress === socket.remoteAddress;
}

/** As Node takes it: an abstract name begins with a zero byte. */
function unixPath(host: string): string | undefined {
  if (!host.startsWith("unix:")) return undefined;
  return host.slice("unix:".length).replace(/^@/, "\0");
}

function unixOutcomeOf(error: NodeJS.ErrnoException): Outcome {
  const code = error.code ?? "";
  const cause = UNIX_CAUSES[code];
  return cause === undefined ? outcomeOf(error) : { kind: "failed", cause: `${cause} (${code})` };
}

function outcomeOf(error: NodeJS.ErrnoException): Outcome {
  const code = error.code ?? "";
  const local = LOCAL_CAUSES[code];
  if (local !== undefined) return { kind: "local", cause: `${local} (${code})` };
  const cause = CAUSES[code];
  return { kind: "failed", cause: cause === undefined ? error.message : `${cause} (${code})` };
}
