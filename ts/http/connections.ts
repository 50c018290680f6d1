/**
 * A bound on the connections of an HTTP server that nobody can fill without asking: when there is no room, the one
 * that has been without a request for longest gives way. Node's own bound would turn away those who come, a probe
 * that asks for /healthz among them.
 */
import type { Server } from "node:http";
import type { Socket } from "node:net";

/** Keeps `server` to `most` connections. Where all of them have a request under way, newcomers are closed. */
export function boundConnections(server: Server, most: number): void {
  const open = new Set<Socket>();
  /** Without a request, the longest first. */
  const waiting = new Set<Socket>();
  const forget = (socket: Socket): void => {
    open.delete(socket);
    waiting.delete(socket);
  };
  server.on("connection", (socket) => {
    open.add(socket);
    waiting.add(socket);
    socket.once("close", () => forget(socket));
    if (open.size <= most) return;
    const [longest = socket] = waiting;
    forget(longest);
    longest.destroy();
  });
  server.on("request", ({ socket }, response) => {
    waiting.delete(socket);
    response.once("close", () => {
      if (open.has(socket)) waiting.add(socket);
    });
  });
}
