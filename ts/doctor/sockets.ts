/** Sockets of this namespace, as /proc/net has them. */
import type { SocketAddress } from "../config/address.ts";
import { canonicalHost } from "../config/address.ts";
import type { Host } from "./host.ts";

export interface ShownSocket {
  local: SocketAddress;
  remote: SocketAddress;
  state: number;
}

export const LISTEN = 0x0a;
export const TIME_WAIT = 0x06;
/** What the kernel shows for a UDP socket that is not connected. */
export const UNCONNECTED = 0x07;

/** Every socket of a protocol, both families. */
export function sockets(host: Host, protocol: "tcp" | "udp"): ShownSocket[] {
  return [protocol, `${protocol}6`].flatMap((name) => {
    const lines = (host.read(`/proc/net/${name}`) ?? "").split("\n").slice(1);
    return lines.filter(Boolean).flatMap((line) => {
      const [, local = "", remote = "", state = ""] = line.trim().split(/\s+/);
      if (!local.includes(":")) return [];
      return [{ local: address(local), remote: address(remote), state: Number.parseInt(state, 16) }];
    });
  });
}

/** `0100007F:0050`: words in the byte order of this machine, which is little-endian wherever Convey runs. */
function address(text: string): SocketAddress {
  const [hex = "", port = ""] = text.split(":");
  const bytes = (hex.match(/.{8}/g) ?? []).flatMap((word) => (word.match(/../g) ?? []).reverse());
  const host =
    bytes.length === 4
      ? bytes.map((byte) => Number.parseInt(byte, 16)).join(".")
      : (bytes.join("").match(/.{4}/g) ?? []).join(":");
  return { ...canonicalHost(host.toLowerCase()), port: Number.parseInt(port, 16) };
}
