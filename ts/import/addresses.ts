/** Addresses as HAProxy and nginx write them, in the form that the configuration has. */
import { isIPv6 } from "node:net";

/** Where something listens, or why it can not be taken over. */
export type Bound = { ok: true; listen: string[] } | { ok: false; message: string };

const refuse = (message: string): Bound => ({ ok: false, message });

/** One address of `bind`: `:80`, `*:80-90`, `10.0.0.1:80`, `:::80`, `ipv6@[::]:80`. */
export function haproxyBind(written: string): Bound {
  const prefix = /^(ipv4|ipv6|tcp|tcp4|tcp6|mptcp|mptcp4|mptcp6)@/.exec(written);
  const text = prefix === null ? written : written.slice(prefix[0].length);
  if (/^([a-z0-9]+@|\/)/.test(text))
    return refuse("a frontend listens on addresses, not on sockets of other kinds");
  const at = text.lastIndexOf(":");
  const [host, port] = at === -1 ? ["", text] : [text.slice(0, at), text.slice(at + 1)];
  if (at === -1 || !/^\d{1,5}(-\d{1,5})?$/.test(port)) return refuse("it has no port or range of ports");
  const six = prefix?.[1]?.endsWith("6") === true;
  return { ok: true, listen: [`${hostOf(host, six)}:${port}`] };
}

/** `listen` of nginx: a port, or an address and a port; it listens on IPv4 for a port alone. */
export function nginxListen(text: string): Bound {
  if (text.startsWith("unix:")) return refuse("a frontend listens on addresses, not on Unix sockets");
  if (/^\d{1,5}(-\d{1,5})?$/.test(text)) return { ok: true, listen: [`:${text}`] };
  const at = text.lastIndexOf(":");
  const port = text.slice(at + 1);
  if (at === -1 || !/^\d{1,5}(-\d{1,5})?$/.test(port)) return refuse("it has no port or range of ports");
  return { ok: true, listen: [`${hostOf(text.slice(0, at), false)}:${port}`] };
}

function hostOf(host: string, six: boolean): string {
  const bare = host.replace(/^\[(.*)\]$/, "$1");
  if (bare === "" || bare === "*" || bare === "0.0.0.0") return six ? "[::]" : "";
  if (bare === "localhost") return "127.0.0.1";
  return isIPv6(bare) ? `[${bare}]` : bare;
}

/** A server's address; `missing` says what is wrong with it. */
export function serverAddress(written: string): { ok: true; addr: string } | { ok: false; message: string } {
  const text = written.replace(/^(ipv4|ipv6|tcp|tcp4|tcp6)@/, "");
  const socket = /^(?:unix[@:])?(\/.*)$/.exec(text)?.[1];
  if (socket !== undefined) return { ok: true, addr: `unix:${socket}` };
  if (text.startsWith("abns@")) return { ok: true, addr: `unix:@${text.slice(5)}` };
  const at = text.lastIndexOf(":");
  const port = text.slice(at + 1);
  if (/^[+-]\d/.test(port))
    return { ok: false, message: "a server has one port, whichever the client came to" };
  if (at === -1 || !/^\d{1,5}$/.test(port) || isIPv6(text)) {
    return {
      ok: false,
      message: "its address has no port, and a server has one port, whichever the client came to",
    };
  }
  const host = text.slice(0, at).replace(/^\[(.*)\]$/, "$1");
  return { ok: true, addr: `${isIPv6(host) ? `[${host}]` : host}:${port}` };
}
