/** Where frontends listen, as the configuration writes it: one address or several, each with a port or a range of them. */
import {
  hostPort,
  notUnicast,
  type Parsed,
  parsePort,
  parseSocketAddress,
  type SocketAddress,
} from "./address.ts";

/** An address and the ports on it from `from` to `to`, inclusive. */
export interface ListenRange {
  family: 4 | 6;
  /** The canonical address, IPv6 without brackets. */
  host: string;
  from: number;
  to: number;
}

/** Addresses a frontend may have, each port of a range counted. */
export const MAX_LISTEN = 1024;

const RANGE = /:(\d{1,5})-(\d{1,5})$/;

/** Reads "ip:port" or "ip:from-to", the address as `parseSocketAddress()` takes it for listeners. */
export function parseListen(text: string): Parsed<ListenRange> {
  const range = RANGE.exec(text);
  const single = range ? `${text.slice(0, range.index)}:${range[1]}` : text;
  const parsed = parseSocketAddress(single, { wildcard: true });
  if (!parsed.ok) return parsed;
  const { family, host, port: from } = parsed.value;
  const message = notUnicast(host);
  if (message !== undefined) return { ok: false, message: `${message}, where nothing can listen` };
  if (!range) return { ok: true, value: { family, host, from, to: from } };
  const to = parsePort(range[2] as string);
  if (to === undefined) return { ok: false, message: "has a range that ends beyond port 65535" };
  if (from === 0) return { ok: false, message: "has a range that begins with port 0" };
  if (to < from) return { ok: false, message: "has a range of ports that ends before it begins" };
  return { ok: true, value: { family, host, from, to } };
}

/** The one way of writing it. */
export function formatListen({ host, from, to }: ListenRange): string {
  return hostPort({ host, port: from === to ? from : `${from}-${to}` });
}

/** Whether it stands for every address of its family. */
export const isEverywhere = ({ host }: ListenRange): boolean => host === "0.0.0.0" || host === "::";

/** What of a frontend says where it listens; one of the two is there in a checked configuration. */
export interface Listening {
  listen_addr?: string | undefined;
  listen?: readonly string[] | undefined;
}

/** The key by which a frontend says where it listens: errors name it. */
export const listenKey = ({ listen }: Listening): "listen" | "listen_addr" =>
  listen === undefined ? "listen_addr" : "listen";

/** As the configuration has it, ranges not taken apart. */
export function listenTexts({ listen_addr, listen }: Listening): readonly string[] {
  return listen ?? (listen_addr === undefined ? [] : [listen_addr]);
}

/** "127.0.0.1:80, [::1]:80" */
export const listenText = (frontend: Listening): string => listenTexts(frontend).join(", ");

/** Every address and port of a checked frontend by itself. */
export function listenAddresses(frontend: Listening): SocketAddress[] {
  return listenTexts(frontend).flatMap((text) => {
    const parsed = parseListen(text);
    return parsed.ok ? expand(parsed.value) : [];
  });
}

function expand({ family, host, from, to }: ListenRange): SocketAddress[] {
  return Array.from({ length: to - from + 1 }, (_, n) => ({ family, host, port: from + n }));
}

/** How many addresses and ports these are. */
export function countListens(ranges: readonly ListenRange[]): number {
  return ranges.reduce((sum, { from, to }) => sum + to - from + 1, 0);
}
