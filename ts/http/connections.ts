/**
 * A bound on the connections of an HTTP server that nobody can fill without asking: when there is no room, one gives
 * way that asks for nothing: the one that has sent no whole request for longest, else the one whose answer has been
 * left unread for longest. Node's own bound would turn away those who come, a probe that asks for /healthz among them.
 */
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { Socket } from "node:net";

/** What a connection is at; nothing while it waits for a request. */
type Exchange = { request: IncomingMessage; response: ServerResponse };

/** Keeps `server` to `most` connections. Where all of them are being answered, newcomers are closed. */
export function boundConnections(server: Server, most: number): void {
  /** In the order in which their latest exchange began or ended. */
  const open = new Map<Socket, Exchange | undefined>();
  const at = (socket: Socket, exchange: Exchange | undefined): void => {
    open.delete(socket);
    open.set(socket, exchange);
  };
  server.on("connection", (socket) => {
    at(socket, undefined);
    socket.once("close", () => open.delete(socket));
    if (open.size <= most) return;
    const victim = longest(open, isAsking) ?? longest(open, isUnread) ?? socket;
    open.delete(victim);
    victim.destroy();
  });
  server.on("request", (request, response) => {
    const { socket } = request;
    if (open.has(socket)) at(socket, { request, response });
    response.once("close", () => {
      if (open.has(socket)) at(socket, undefined);
    });
  });
}

function longest(
  open: ReadonlyMap<Socket, Exchange | undefined>,
  is: (exchange: Exchange | undefined) => boolean,
): Socket | undefined {
  for (const [socket, exchange] of open) if (is(exchange)) return socket;
  return undefined;
}

/** It has sent no whole request. */
const isAsking = (exchange: Exchange | undefined): boolean => exchange?.request.complete !== true;

/** The whole answer waits for a client that does not read. */
const isUnread = (exchange: Exchange | undefined): boolean =>
  exchange?.response.writableEnded === true && !exchange.response.writableFinished;
