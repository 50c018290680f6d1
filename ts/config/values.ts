/** Values of single keys: addresses, networks, times, names and words, each with what it must be in words. */
import { isIP } from "node:net";
import { z } from "zod";
import {
  canonicalHost,
  hostPort,
  notUnicast,
  parsePort,
  parsePortRange,
  parseSocketAddress,
} from "./address.ts";
import { expandSource } from "./client-address.ts";
import { countListens, formatListen, MAX_LISTEN, parseListen } from "./listen.ts";
import { MOST_NETWORKS, parseNetwork } from "./networks.ts";
import { formatServerAddress, notAServer, parseServerAddress } from "./server-address.ts";
import { readString, wording } from "./wording.ts";
import { BALANCES, ENGINES, LOG_LEVELS, MODES } from "./words.ts";

export const count = z.int().min(0).max(0xffff_ffff);
export const flag = z.boolean().register(wording, { type: "boolean", expected: "true or false" });
export const milliseconds = z.int().min(0).max(86_400_000);
export const workers = z.int().min(0).max(1024);
/** From what a flow may need at least to a day: beyond 39 hours the flow table cannot tell an age. */
export const flowLifetime = z.int().min(100).max(86_400_000);

export const listenAddress = readString((text) => {
  const parsed = parseSocketAddress(text, { wildcard: true });
  if (!parsed.ok) return parsed;
  const message = notUnicast(parsed.value.host);
  if (message !== undefined) return { ok: false, message: `${message}, where nothing can listen` };
  return { ok: true, value: hostPort(parsed.value) };
}).register(wording, {
  type: '"ip:port"',
  expected: '"ip:port", such as "127.0.0.1:3000", "[::1]:3000" or ":3000"',
  pattern: String.raw`^(\[[0-9A-Fa-f:.]+\]|[0-9.]*):[0-9]{1,5}$`,
});

export const ADDRESSES =
  '"ip:port" or "ip:from-to", or a list of them, such as ["127.0.0.1:80", "[::1]:80", ":8000-8010"]';

export const listenRange = z.string().register(wording, {
  type: '"ip:port"',
  expected: '"ip:port" or "ip:from-to", such as "127.0.0.1:3000", "[::1]:3000" or ":8000-8010"',
  pattern: String.raw`^(\[[0-9A-Fa-f:.]+\]|[0-9.]*):[0-9]{1,5}(-[0-9]{1,5})?$`,
});

/** Always a list from then on. What is wrong with an item is told of that item, which a union of its own would not do. */
export const listenRanges = z
  .union([listenRange, z.array(listenRange)])
  .transform((written, context) => {
    const texts = typeof written === "string" ? [written] : written;
    const bad = (message: string, path: number[] = []): void => {
      context.issues.push({ code: "custom", message, input: written, path });
    };
    const ranges = texts.flatMap((text, index) => {
      const parsed = parseListen(text);
      if (parsed.ok) return [parsed.value];
      bad(parsed.message, typeof written === "string" ? [] : [index]);
      return [];
    });
    const count = countListens(ranges);
    if (texts.length === 0) bad("is empty");
    else if (texts.length > 64) bad(`has ${texts.length} entries, more than 64`);
    else if (count > MAX_LISTEN) bad(`has ${count} addresses and ports, more than ${MAX_LISTEN}`);
    return context.issues.length > 0 ? z.NEVER : ranges.map(formatListen);
  })
  .register(wording, { type: '"ip:port", "ip:from-to" or list of them', expected: ADDRESSES });

export const serverAddress = readString((text) => {
  const parsed = parseServerAddress(text);
  return parsed.ok ? { ok: true, value: formatServerAddress(parsed.value) } : parsed;
}).register(wording, {
  type: '"ip:port", "name:port", SRV name or "unix:path"',
  expected:
    '"ip:port", such as "10.0.0.1:8080" or "[2001:db8::1]:8080", "name:port", an SRV name or "unix:/path"',
  pattern: String.raw`^(\[[0-9A-Fa-f:.]+\]:[0-9]{1,5}|[0-9A-Za-z._-]+:[0-9]{1,5}|_[0-9A-Za-z._-]+|unix:[/@].+)$`,
});

export const resolverAddress = readString((text) => {
  const parsed = parseSocketAddress(withPort53(text), { wildcard: false });
  if (!parsed.ok) return parsed;
  const message = notAServer(parsed.value.host, parsed.value.port);
  return message === undefined
    ? { ok: true, value: hostPort(parsed.value) }
    : { ok: false, message: message.replace("no server", "no DNS server") };
}).register(wording, {
  type: '"ip" or "ip:port"',
  expected: 'an IP address and, unless it is 53, a port, such as "10.0.0.53" or "127.0.0.1:5353"',
});

export const withPort53 = (text: string): string =>
  isIP(text) === 0 || text.includes("%") ? text : hostPort({ host: text, port: 53 });

export const ipAddress = readString((text) => {
  if (!isIP(text) || text.includes("%")) return { ok: false, message: "is not an IP address" };
  const { host } = canonicalHost(text);
  const message = notUnicast(host);
  return message === undefined
    ? { ok: true, value: host }
    : { ok: false, message: `${message}, where nothing can listen` };
}).register(wording, { type: "IP address", expected: 'an IP address, such as "127.0.0.1" or "::1"' });

export const hostName = readString((text) =>
  isIP(text) !== 0 || text === "*" || /^[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?$/i.test(text)
    ? { ok: true, value: text }
    : { ok: false, message: "is not a host name or IP address" },
).register(wording, {
  type: "host name or IP address",
  expected: 'a host name or IP address without a port, such as "lb.example.com", or "*"',
  pattern: "^[0-9A-Za-z._:*-]+$",
});

export const portRange = readString((text) => {
  const parsed = parsePortRange(text);
  return parsed.ok ? { ok: true, value: `${parsed.value.from}-${parsed.value.to}` } : parsed;
}).register(wording, { type: '"from-to"', expected: 'two ports from 1024 to 65535, such as "33768-61000"' });

export const natAddresses = z
  .array(ipAddress)
  .max(64)
  .transform((addresses, context) => {
    const twice = addresses.find((address, i) => addresses.indexOf(address) < i);
    if (twice === undefined) return addresses;
    context.issues.push({ code: "custom", message: `names ${twice} twice`, input: addresses });
    return z.NEVER;
  })
  .register(wording, {
    type: "list of IP addresses",
    expected: 'at most 64 different IP addresses, such as ["10.0.0.2", "10.0.0.3"]',
  });

export const sourceItem = z.string().register(wording, {
  type: "IP address or range",
  expected: 'an IP address or a range of them, such as "10.0.0.2" or "10.0.0.2-10.0.0.9"',
});

/** "client" or the addresses, ranges written out. */
export const source = z
  .union([z.string(), z.array(sourceItem)])
  .transform((value, context): "client" | string[] => {
    const expanded = expandSource(value);
    if (expanded.ok) return expanded.value;
    context.issues.push({ code: "custom", message: expanded.message, input: value });
    return z.NEVER;
  })
  .register(wording, {
    type: '"client", IP address, range or list of these',
    expected: '"client", "10.0.0.2", "10.0.0.2-10.0.0.9" or a list of addresses and ranges',
  });

export const network = readString(parseNetwork).register(wording, {
  type: "network",
  expected: 'a network, such as "192.0.2.0/24", "2001:db8::/32" or "192.0.2.7"',
});

export const networks = z
  .array(network)
  .max(MOST_NETWORKS)
  .register(wording, {
    type: "list of networks",
    expected: `a list of at most ${MOST_NETWORKS} networks, such as ["192.0.2.0/24", "2001:db8::/32"]`,
  });

export const connectionRate = z.int().min(0).max(1_000_000).default(0);
export const burst = z.int().min(1).max(1_000_000).optional();

/** Backends by what a ClientHello says. The rules check names, once for all of a frontend. */
export const helloRoutes = z
  .record(
    z.string(),
    z
      .string()
      .register(wording, { type: "name of a backend", expected: "the name of a backend" })
      .describe("The backend."),
  )
  .register(wording, {
    type: "table of names of backends",
    expected: 'a table of names of backends, such as { "app.example.com" = "app" }',
  });

/** As the kernel takes them: at most 15 characters, no slash, no space. */
export const interfaceNames = z
  .array(
    z
      .string()
      .regex(/^[^\s/:]{1,15}$/)
      .register(wording, {
        type: "name",
        expected: 'the name of an interface, such as "eth0"',
      }),
  )
  .max(256)
  .register(wording, {
    type: "array of names",
    expected: 'an array of names of interfaces, such as ["eth0", "eth1"]',
  });

export const fastOpen = z
  .union([z.boolean(), z.int().min(0).max(65535)])
  .transform((value) => (typeof value === "number" ? value : value ? 256 : 0))
  .register(wording, {
    type: "boolean or integer, 0 to 65535",
    expected: "true, false, or a number from 0 to 65535",
  });

export const statsPort = z
  .union([z.int().min(0).max(65535), z.string().regex(/^\d{1,5}$/)])
  .transform((value, context) => {
    const port = typeof value === "number" ? value : parsePort(value);
    if (port !== undefined) return port;
    context.issues.push({ code: "custom", message: "is not a port", input: value });
    return z.NEVER;
  })
  .register(wording, {
    type: "string or integer, 0 to 65535",
    expected: "a port from 0 to 65535, as a string or an integer",
  });

/** Names address things at run time as `backend/server`, and appear in logs and metrics. */
export const name = z
  .string()
  .min(1, "a name cannot be empty")
  .max(255, "a name has at most 255 characters")
  .regex(/^[^/]*$/, 'a name cannot contain "/", which separates backend from server in commands')
  .regex(/^\P{Cc}*$/u, "a name cannot contain control characters")
  // An address such as /api/v1/servers/app/.. is another one before it is sent, however it is escaped.
  .regex(/^(?!\.\.?$)/, 'a name cannot be "." or "..", which addresses of the HTTP server cannot name');

export const path = z.string().min(1).register(wording, { type: "path", expected: "a path" });

export const modeSchema = z
  .enum(MODES)
  .describe(
    "How traffic is forwarded: proxy ends TCP and opens connections of its own, passthrough rewrites packets both ways, dsr rewrites packets to the server, which answers the client directly.",
  );
export const engineSchema = z
  .enum(ENGINES)
  .describe(
    "What moves packets in passthrough and dsr mode: tc and xdp are kernel programs, af_xdp and af_packet work in user space; auto chooses by link, driver and privilege.",
  );
export const protocolSchema = z.enum(["tcp", "udp"]);
export const dsrMethodSchema = z.enum(["rewrite", "l2"]);
export const connectionTrackingSchema = z.enum(["full", "minimal"]);
export const xdpModeSchema = z.enum(["native", "generic"]);
export const balanceSchema = z.enum(BALANCES);
export const sendProxySchema = z.enum(["off", "v1", "v2"]);
export const checkSchema = z.enum(["vip", "address"]);
export const logLevelSchema = z.enum(LOG_LEVELS);

export const resolveSchema = z.enum(["all", "first"]);
