/** The HTTP server: opening, limits on what a client may cost, closing. */
import { createServer, type Server, STATUS_CODES } from "node:http";
import type { AddressInfo } from "node:net";
import { getRequestListener } from "@hono/node-server";
import type { Hono } from "hono";
import { hostPort } from "../config/address.ts";
import { ConveyError, loadDataplane } from "../native/index.ts";
import type { AdminSettings } from "./access.ts";
import { createAdminApp } from "./app.ts";
import { boundConnections } from "./connections.ts";
import { failureBody } from "./failure.ts";
import type { Env } from "./guard.ts";
import { accessOf } from "./policy.ts";
import type { AdminSource } from "./source.ts";

/** An open HTTP server. */
export type AdminServer = {
  readonly settings: AdminSettings;
  /** Where it listens, with the port the kernel chose. */
  readonly address: { host: string; port: number };
  /** Stops listening at once; answers under way get half a second. Resolves when all connections are gone. */
  close: () => Promise<void>;
};

const MAX_HEADER_BYTES = 16 * 1024;
const MAX_CONNECTIONS = 128;
const HEADERS_TIMEOUT_MS = 5000;
const REQUEST_TIMEOUT_MS = 10_000;
const KEEP_ALIVE_TIMEOUT_MS = 5000;
/** Nothing moved on a connection, a client that does not read its answer included. */
const IDLE_TIMEOUT_MS = 30_000;
/** What an answer under way gets to finish when the server closes. */
const CLOSE_GRACE_MS = 500;

/**
 * Opens the server of `[stats]`. It keeps no process alive.
 *
 * @throws ConveyError `BIND_FAILED` or `PERMISSION_DENIED`.
 */
export async function openAdmin(settings: AdminSettings, source: AdminSource): Promise<AdminServer> {
  const server = httpServer(createAdminApp(source, accessOf(settings)));
  await listen(server, settings, await passedOn(settings));
  server.unref();
  const { address, port } = server.address() as AddressInfo;
  return { settings, address: { host: address, port }, close: () => closeServer(server) };
}

/** A server that does not listen yet, with limits on what a client may cost. */
export function httpServer(app: Hono<Env>): Server {
  const listener = getRequestListener((request, env) => app.fetch(request, env), {
    // A library does not replace the globals of the program that uses it.
    overrideGlobalObjects: false,
    // What stands in for the Host that HTTP/1.0 may leave out.
    hostname: "localhost",
  });
  const server = createServer(
    {
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: HEADERS_TIMEOUT_MS,
      requestTimeout: REQUEST_TIMEOUT_MS,
      keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
      connectionsCheckingInterval: 1000,
      // The guard refuses requests that lack it, with a body that says so, and lets probes in.
      requireHostHeader: false,
    },
    listener,
  );
  boundConnections(server, MAX_CONNECTIONS);
  refuseUnparsable(server);
  server.setTimeout(IDLE_TIMEOUT_MS);
  server.on("connection", (socket) => socket.unref());
  return server;
}

/** What Node's parser refuses never reaches a route; its answers say what is wrong in the same shape. */
function refuseUnparsable(server: Server): void {
  server.on("clientError", ({ code }: NodeJS.ErrnoException, socket) => {
    if (!socket.writable) return void socket.destroy();
    const [status, text] =
      code === "HPE_HEADER_OVERFLOW"
        ? ([431, "the headers are too large"] as const)
        : code === "ERR_HTTP_REQUEST_TIMEOUT"
          ? ([408, "the request took too long"] as const)
          : ([400, "this is no HTTP request"] as const);
    const body = JSON.stringify(failureBody(status, text));
    const head = [
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
      "Content-Type: application/json",
      `Content-Length: ${Buffer.byteLength(body)}`,
      "Connection: close",
    ];
    socket.end(`${head.join("\r\n")}\r\n\r\n${body}`);
  });
}

/** A socket of the service manager that listens there already. */
async function passedOn({ host, port }: AdminSettings): Promise<number | null> {
  // Scoped addresses are beyond what is compared.
  if (port === 0 || host.includes("%")) return null;
  return (await loadDataplane()).passedSocket(hostPort({ host, port }));
}

function listen(server: Server, { host, port }: AdminSettings, descriptor: number | null): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (cause: NodeJS.ErrnoException) => {
      const denied = cause.code === "EACCES" || cause.code === "EPERM";
      const remedy = denied
        ? "choose a port from 1024 on, or grant CAP_NET_BIND_SERVICE"
        : cause.code === "EADDRINUSE"
          ? "another program has this port; choose another stats.port"
          : "choose another stats.bind or stats.port";
      reject(
        new ConveyError(
          denied ? "PERMISSION_DENIED" : "BIND_FAILED",
          `cannot serve stats on ${hostPort({ host, port })}: ${cause.code ?? cause.message}; ${remedy}`,
          { field: "stats.port", cause },
        ),
      );
    });
    server.listen(descriptor === null ? { host, port } : { fd: descriptor }, resolve);
  });
}

/** Stops listening at once; answers under way get half a second. Resolves when all connections are gone. */
export function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    const cut = setTimeout(() => server.closeAllConnections(), CLOSE_GRACE_MS);
    server.close(() => {
      clearTimeout(cut);
      resolve();
    });
    server.closeIdleConnections();
  });
}
