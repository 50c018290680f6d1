/** Raw TCP ends for tests: what a client or server sees, byte for byte. */
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { hostPort } from "../../ts/config/address.ts";

export interface Address {
  host: string;
  port: number;
}

/** How a direction of a connection ended. */
export interface Received {
  bytes: number;
  sha256: string;
  end: "fin" | "reset" | "closed";
}

/** An established connection; it stays half-open after the peer's FIN. */
export async function dial(to: Address): Promise<Socket> {
  const socket = connect({ host: to.host, port: to.port, allowHalfOpen: true, noDelay: true });
  await once(socket, "connect");
  socket.on("error", () => undefined);
  return socket;
}

/** Reads to the end and tells how it came. Nothing is kept but length and digest. */
export function receive(socket: Socket): Promise<Received> {
  const hash = createHash("sha256");
  let bytes = 0;
  return new Promise((resolve) => {
    const done = (end: Received["end"]) => resolve({ bytes, sha256: hash.copy().digest("hex"), end });
    socket.on("data", (piece: Buffer) => {
      hash.update(piece);
      bytes += piece.length;
    });
    socket.once("end", () => done("fin"));
    socket.once("error", (error: NodeJS.ErrnoException) =>
      done(error.code === "ECONNRESET" ? "reset" : "closed"),
    );
    socket.once("close", () => done("closed"));
  });
}

/** Numbers from 0 to 1 that depend on the seed alone. */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Sends `total` random bytes in chunks of random length, then FIN; returns their digest. A connection that
 * ends meanwhile ends it too.
 */
export async function pour(
  socket: Socket,
  total: number,
  next: () => number,
  largest = 128 * 1024,
): Promise<string> {
  const source = randomBytes(2 * largest);
  const hash = createHash("sha256");
  let sent = 0;
  while (sent < total) {
    const length = Math.min(1 + Math.floor(next() * largest), total - sent);
    const at = Math.floor(next() * largest);
    const piece = source.subarray(at, at + length);
    hash.update(piece);
    sent += length;
    if (socket.destroyed) break;
    if (!socket.write(piece)) await drained(socket);
  }
  socket.end();
  return hash.digest("hex");
}

function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      socket.off("drain", done).off("close", done);
      resolve();
    };
    socket.on("drain", done).on("close", done);
  });
}

/** Resolves when nothing of the connection is left, however it ended. */
export function gone(socket: Socket): Promise<void> {
  if (socket.destroyed) return Promise.resolve();
  return new Promise((resolve) => socket.once("close", () => resolve()));
}

/** For `await using`: what is in the list by then, the last first. */
export function together(all: readonly AsyncDisposable[]): AsyncDisposable {
  return {
    async [Symbol.asyncDispose]() {
      for (const one of all.toReversed()) await one[Symbol.asyncDispose]();
    },
  };
}

/** A listening server of a test. */
export interface Listening extends AsyncDisposable {
  server: Server;
  /** `ip:port`. */
  addr: string;
  port: number;
  sockets: Set<Socket>;
  accepted(): number;
}

/** Serves each connection with `handler` on a free loopback port; half-closes are left to it. */
export async function listening(
  handler: (socket: Socket) => void,
  host = "127.0.0.1",
  port = 0,
): Promise<Listening> {
  const sockets = new Set<Socket>();
  let accepted = 0;
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    accepted += 1;
    sockets.add(socket);
    socket.on("error", () => undefined).on("close", () => sockets.delete(socket));
    handler(socket);
  });
  server.listen(port, host);
  await once(server, "listening");
  const bound = (server.address() as AddressInfo).port;
  return {
    server,
    addr: hostPort({ host, port: bound }),
    port: bound,
    sockets,
    accepted: () => accepted,
    async [Symbol.asyncDispose]() {
      const closed = server.listening ? once(server, "close") : undefined;
      server.close();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

/** A loopback port on which nothing listened a moment ago. */
export async function freePort(): Promise<number> {
  await using server = await listening(echo);
  return server.port;
}

/** Calls `handler` once the client has said something, which health checks never do; it reads it first. */
export function spokenTo(handler: (socket: Socket) => void): (socket: Socket) => void {
  return (socket) => {
    socket.once("data", (piece: Buffer) => {
      socket.unshift(piece);
      handler(socket);
    });
  };
}

/** Sends back what comes, FIN included. */
export const echo = (socket: Socket): void => {
  socket.pipe(socket);
};
