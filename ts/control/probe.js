/**
 * One TCP connect, closed as soon as it stands. The close is an orderly FIN: a reset would spare us a
 * TIME_WAIT entry but makes most servers log "connection reset by peer" at every check.
 */
import { Socket } from "node:net";

const OK = { kind: "ok" };
const CAUSES = {
  ECONNREFUSED: "connection refused",
  ECONNRESET: "connection reset",
  EHOSTUNREACH: "host unreachable",
  ENETUNREACH: "network unreachable",
  ETIMEDOUT: "connect timed out",
};
const LOCAL_CAUSES = {
  EMFILE: "this process has no file descriptors left",
  ENFILE: "this machine has no file descriptors left",
  ENOBUFS: "this machine has no buffer space left",
  ENOMEM: "this machine has no memory left",
  EADDRNOTAVAIL: "this machine has no free source port or address",
  EAGAIN: "this machine has no free source port",
  EACCES: "this machine does not permit the connect",
  EPERM: "this machine does not permit the connect",
};
/** Connects once; `done` is called once, later, unless the returned function was called before. */
export function probeTcp(host, port, done) {
  const socket = new Socket();
  let settled = false;
  const finish = (outcome) => {
    if (settled) return;
    settled = true;
    socket.destroy();
    done(outcome);
  };
  // Paused before it connects, the socket is never armed for reading: half the epoll work of a check.
  socket.pause();
  socket.on("error", (error) => finish(outcomeOf(error)));
  socket.on("connect", () => finish(connectedToItself(socket, port) ? SELF_CONNECT : OK));
  socket.connect({ host, port, autoSelectFamily: false });
  socket.unref();
  return () => {
    settled = true;
    socket.destroy();
  };
}
const SELF_CONNECT = { kind: "failed", cause: "connection refused (the connect met itself)" };
// A connect to a closed local port within the ephemeral range can be given that very port as its source and
// succeed, by TCP's simultaneous open.
function connectedToItself(socket, port) {
  // The port first: each property is a system call.
  return socket.localPort === port && socket.localAddress === socket.remoteAddress;
}
function outcomeOf(error) {
  const code = error.code ?? "";
  const local = LOCAL_CAUSES[code];
  if (local !== undefined) return { kind: "local", cause: `${local} (${code})` };
  const cause = CAUSES[code];
  return { kind: "failed", cause: cause === undefined ? error.message : `${cause} (${code})` };
}
