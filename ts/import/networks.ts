/**
 * Lists of networks. HAProxy and nginx go by the first rule that fits, Convey by the longest prefix; here the one
 * becomes the other.
 */
import { isIP } from "node:net";
import { canonicalHost } from "../config/address.ts";

export interface AccessRule {
  allow: boolean;
  /** "all", an address or a network. */
  network: string;
  line: number;
}

interface Network {
  text: string;
  bits: string;
}

/** Both lists, as `allow` and `deny` have them. A rule that is shadowed by one before it is left out. */
export function accessLists(
  rules: readonly AccessRule[],
  bad: (rule: AccessRule) => void,
): { allow: string[]; deny: string[] } {
  const lists = { allow: [] as string[], deny: [] as string[] };
  const seen = new Set<string>();
  let rest = true;
  for (const rule of rules) {
    if (rule.network === "all") {
      rest = rule.allow;
      break;
    }
    const network = parseNetwork(rule.network);
    if (network === undefined) {
      bad(rule);
      continue;
    }
    if (covered(network.bits, seen)) continue;
    seen.add(network.bits);
    lists[rule.allow ? "allow" : "deny"].push(network.text);
  }
  // With an allow list everybody else is refused, without one everybody else may come.
  const everybody = ["0.0.0.0/0", "::/0"].filter((text) => !seen.has(parseNetwork(text)?.bits ?? ""));
  if (rest && lists.allow.length > 0) lists.allow.push(...everybody);
  if (!rest && lists.allow.length === 0) lists.deny.push(...everybody);
  return lists;
}

/** Whether the network, or one around it, is in the set. */
function covered(bits: string, seen: ReadonlySet<string>): boolean {
  for (let length = 1; length <= bits.length; length++) if (seen.has(bits.slice(0, length))) return true;
  return false;
}

/** The text without bits beyond the prefix; `bits` is the family and the prefix. */
function parseNetwork(written: string): Network | undefined {
  const [address = "", length, more] = written.split("/");
  if (more !== undefined || isIP(address) === 0 || address.includes("%")) return undefined;
  if (length !== undefined && !/^\d{1,3}$/.test(length)) return undefined;
  const { family, host } = canonicalHost(address);
  const width = family === 4 ? 32 : 128;
  // An IPv4 address within IPv6 is the same network with 96 bits less.
  const prefix =
    length === undefined ? width : Number(length) - (isIP(address) === 6 && family === 4 ? 96 : 0);
  if (prefix < 0 || prefix > width) return undefined;
  const bits = bitsOf(host).slice(0, prefix);
  if (prefix === width) return { text: host, bits: `${family}${bits}` };
  return { text: `${textOf(bits.padEnd(width, "0"))}/${prefix}`, bits: `${family}${bits}` };
}

/** The bits of a canonical address. */
function bitsOf(host: string): string {
  const digits = (part: string, radix: number, width: number) =>
    Number.parseInt(part, radix).toString(2).padStart(width, "0");
  if (!host.includes(":"))
    return host
      .split(".")
      .map((byte) => digits(byte, 10, 8))
      .join("");
  const [before = "", after] = host.split("::");
  const groups = (part: string | undefined) =>
    part === undefined || part === ""
      ? ""
      : part
          .split(":")
          .map((group) => digits(group, 16, 16))
          .join("");
  const tail = groups(after);
  return groups(before).padEnd(128 - tail.length, "0") + tail;
}

function textOf(bits: string): string {
  const v4 = bits.length === 32;
  const parts = bits.match(v4 ? /.{8}/g : /.{16}/g) ?? [];
  const text = parts.map((part) => Number.parseInt(part, 2).toString(v4 ? 10 : 16)).join(v4 ? "." : ":");
  return canonicalHost(text).host;
}
