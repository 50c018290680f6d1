/** Networks as the configuration writes them: `10.0.0.0/8`, `2001:db8::/32`, or one address. */
import { isIP } from "node:net";
import { canonicalHost, type Parsed } from "./address.ts";

/** More make a file that nobody can read, and a reload that takes a second. */
export const MOST_NETWORKS = 100_000;

/** Reads a network; the value is the one way of writing it, a single address without its bits. */
export function parseNetwork(text: string): Parsed<string> {
  const [address = "", bitsText, more] = text.split("/");
  if (!isIP(address) || address.includes("%") || more !== undefined) {
    return { ok: false, message: "is not a network" };
  }
  const width = isIP(address) === 4 ? 32 : 128;
  if (bitsText !== undefined && (!/^(0|[1-9]\d{0,2})$/.test(bitsText) || Number(bitsText) > width)) {
    return { ok: false, message: `has a prefix length that is not a number from 0 to ${width}` };
  }
  const bits = bitsText === undefined ? width : Number(bitsText);
  const { family, host } = canonicalHost(address);
  // Of an IPv4 address that is mapped into IPv6, the bits before it say nothing.
  const isMapped = width === 128 && family === 4;
  if (isMapped && bits < 96) {
    return { ok: false, message: "is wider than the IPv4 addresses within IPv6" };
  }
  const [own, all] = isMapped ? [bits - 96, 32] : [bits, width];
  const number = toNumber(host);
  const first = (number >> BigInt(all - own)) << BigInt(all - own);
  if (first !== number) {
    const network = `${fromNumber(first, family)}/${own}`;
    return { ok: false, message: `has bits set behind its prefix: the network is ${network}` };
  }
  return { ok: true, value: own === all ? host : `${host}/${own}` };
}

/** The bits of a canonical address. */
function toNumber(host: string): bigint {
  if (!host.includes(":")) return host.split(".").reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  const [before = "", after] = host.split("::");
  const words = (part: string): string[] => (part === "" ? [] : part.split(":"));
  const [left, right] = [words(before), words(after ?? "")];
  const zeros = Array<string>(8 - left.length - right.length).fill("0");
  return [...left, ...zeros, ...right].reduce((sum, word) => (sum << 16n) | BigInt(`0x${word}`), 0n);
}

function fromNumber(number: bigint, family: 4 | 6): string {
  const [count, bits] = family === 4 ? [4, 8n] : [8, 16n];
  const parts = Array.from(
    { length: count },
    (_, at) => (number >> (BigInt(count - 1 - at) * bits)) & ((1n << bits) - 1n),
  );
  if (family === 4) return parts.join(".");
  return canonicalHost(parts.map((part) => part.toString(16)).join(":")).host;
}
