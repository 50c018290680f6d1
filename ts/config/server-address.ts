/**
 * Where a server is, as the configuration writes it: an address and a port, a name and a port, the name of an SRV
 * record, or a Unix socket.
 */
import { isIP, isIPv4 } from "node:net";
import { hostPort, notUnicast, type Parsed, parsePort, parseSocketAddress } from "./address.ts";

export type ServerAddress =
  | { kind: "ip"; family: 4 | 6; host: string; port: number }
  /** `host` is in lower case, without a dot at the end. */
  | { kind: "name"; host: string; port: number }
  /** An SRV record, which tells the ports. */
  | { kind: "srv"; host: string }
  /** `path` is absolute, or `@` and an abstract name. */
  | { kind: "unix"; path: string };

const refuse = (message: string): { ok: false; message: string } => ({ ok: false, message });

/** What the kernel takes for the path of a socket, its final zero byte included. */
const MAX_PATH_BYTES = 107;

/** Reads `ip:port`, `name:port`, `_service._proto.name` or `unix:path`. */
export function parseServerAddress(text: string): Parsed<ServerAddress> {
  if (text.startsWith("unix:")) return parseUnix(text.slice("unix:".length));
  if (text.startsWith("_")) return parseSrv(text);
  const named = /^([^:[\]]*):([^:]*)$/.exec(text);
  const [, host = "", port = ""] = named ?? [];
  if (named !== null && host !== "" && !isIPv4(host) && /[^\d.]/.test(host)) return parseName(host, port);
  return parseIp(text);
}

/** The one way of writing it. */
export function formatServerAddress(address: ServerAddress): string {
  switch (address.kind) {
    case "ip":
    case "name":
      return hostPort(address);
    case "srv":
      return address.host;
    case "unix":
      return `unix:${address.path}`;
  }
}

/** Whether its addresses are asked for while it runs. */
export function isResolved(address: ServerAddress): address is ServerAddress & { kind: "name" | "srv" } {
  return address.kind === "name" || address.kind === "srv";
}

/** Why nothing can be served at an IP address and port; undefined where it can. */
export function notAServer(host: string, port: number): string | undefined {
  if (port === 0) return "has port 0, where no server can be";
  if (host === "0.0.0.0" || host === "::") return "is the wildcard address, where no server can be";
  const message = notUnicast(host);
  return message === undefined ? undefined : `${message}, where no server can be`;
}

function parseIp(text: string): Parsed<ServerAddress> {
  const parsed = parseSocketAddress(text, { wildcard: false });
  if (!parsed.ok) return parsed;
  const message = notAServer(parsed.value.host, parsed.value.port);
  return message === undefined ? { ok: true, value: { kind: "ip", ...parsed.value } } : refuse(message);
}

function parseName(text: string, portText: string): Parsed<ServerAddress> {
  const host = hostNameOf(text);
  if (host === undefined) return refuse("has no host name before the port");
  if (portText === "") return refuse("has no port");
  const port = parsePort(portText);
  if (port === undefined) return refuse("has a port that is not a number from 0 to 65535");
  if (port === 0) return refuse("has port 0, where no server can be");
  return { ok: true, value: { kind: "name", host, port } };
}

function parseSrv(text: string): Parsed<ServerAddress> {
  if (text.includes(":")) return refuse("is an SRV name with a port, and its records tell the ports");
  const host = hostNameOf(text);
  if (host === undefined || !/^_[^.]+\._[^.]+\../.test(host)) {
    return refuse("is not the name of an SRV record, such as _http._tcp.app.internal");
  }
  return { ok: true, value: { kind: "srv", host } };
}

function parseUnix(path: string): Parsed<ServerAddress> {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (/[\u0000-\u001f\u007f]/.test(path)) return refuse("has control characters in the path of its socket");
  const isAbstract = path.startsWith("@");
  if (isAbstract ? path.length === 1 : !/^\/.*[^/]$/.test(path)) {
    return refuse("has no absolute path of a socket, nor @ and a name, after unix:");
  }
  const bytes = Buffer.byteLength(path);
  if (bytes > MAX_PATH_BYTES)
    return refuse(`has a path of ${bytes} bytes, and the kernel takes ${MAX_PATH_BYTES}`);
  return { ok: true, value: { kind: "unix", path } };
}

/** A name that DNS can have, in lower case and without a dot at the end; undefined for anything else. */
export function hostNameOf(text: string): string | undefined {
  const host = text.toLowerCase().replace(/\.$/, "");
  if (host === "" || host.length > 253 || isIP(host) !== 0) return undefined;
  const labels = host.split(".");
  if (!labels.every((label) => /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/.test(label))) return undefined;
  // What ends in a number is an address with a mistake in it (RFC 3696, section 2).
  return /^\d+$/.test(labels.at(-1) as string) ? undefined : host;
}
