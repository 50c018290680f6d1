/** What a listener of the HTTP server lets its clients do: a matter of where it listens, not of the route. */
import { isIP } from "node:net";
import { isLoopback } from "../config/address.ts";
import type { AdminSettings } from "./access.ts";

/** `/healthz` and `/readyz` answer everyone, whatever stands here. */
export type Access = {
  /** Who may read: everyone who reaches the listener, or who has the token. */
  read: "open" | "token";
  /** Who may change something: nobody, everyone who reaches the listener, or who has the token. */
  write: "off" | "open" | "token";
  /** What a `Host` may name beside loopback and the address the connection came in on. */
  hosts: readonly string[] | "any";
  token: string | undefined;
};

/** The Unix socket: the file's mode says who may connect, and no browser can. */
export const SOCKET_ACCESS: Access = { read: "open", write: "open", hosts: "any", token: undefined };

/** A TCP listener: beyond loopback everything wants the token, on loopback only changes do. */
export function accessOf({ host, token, hosts }: AdminSettings): Access {
  return {
    read: isLoopback(host) ? "open" : "token",
    write: token === undefined ? "off" : "token",
    hosts: hosts.includes("*") ? "any" : [host, ...hosts].map((name) => name.toLowerCase()),
    token,
  };
}

/**
 * Whether a `Host` names this server: a loopback name or address, one of `hosts`, or the address the
 * connection came in on. A page that made its own name resolve to us (DNS rebinding) shows that name here and
 * is refused. Ports are not compared: tunnels change them.
 */
export function isOwnHost(header: string, hosts: Access["hosts"], local: string | undefined): boolean {
  if (hosts === "any") return true;
  const match = /^(?:\[([^\]]+)\]|([^:]+))(?::\d{1,5})?$/.exec(header);
  const host = (match?.[1] ?? match?.[2])?.toLowerCase();
  if (host === undefined) return false;
  return isLoopback(host) || hosts.includes(host) || (isIP(host) !== 0 && host === unmapped(local));
}

/** An IPv4 client of a dual-stack listener shows as ::ffff:a.b.c.d. */
const unmapped = (address: string | undefined): string | undefined => address?.replace(/^::ffff:/i, "");
