/** Routes by what a TLS ClientHello says: `[frontends.<f>.sni]` and `[frontends.<f>.alpn]`. */
import { domainToASCII } from "node:url";
import { nearest } from "./nearest.ts";
import { describeValue, type Finding, type KeyPath, oneOf, quote } from "./problem.ts";
import { error, type Frontend, isTable, type Table, type View } from "./view.ts";

/** One route as it was written. */
export interface HelloRoute {
  at: KeyPath;
  /** A server name, `*.` and a suffix, or a protocol of ALPN. */
  says: string;
  backend: string;
}

/** As it is where nothing is written; written or not, it changes nothing. */
export const DEFAULT_TIMEOUT_MS = 3000;

const TABLES = ["sni", "alpn"] as const;

/** The routes of a frontend, as far as they are strings. */
export function helloRoutes({ name, table }: Pick<Frontend, "name" | "table">): HelloRoute[] {
  return TABLES.flatMap((key) => {
    const routes = table[key];
    if (!isTable(routes)) return [];
    return Object.entries(routes).flatMap(([says, backend]) =>
      typeof backend === "string" ? [{ at: ["frontends", name, key, says], says, backend }] : [],
    );
  });
}

const known = new WeakMap<object, readonly string[]>();

/** Every backend that a frontend may send to: its own first, each once. The same array for the same frontend. */
export function backendsOf(frontend: {
  backend: string;
  sni?: Readonly<Record<string, string>> | undefined;
  alpn?: Readonly<Record<string, string>> | undefined;
}): readonly string[] {
  const before = known.get(frontend);
  if (before !== undefined) return before;
  const { backend, sni = {}, alpn = {} } = frontend;
  const all = [...new Set([backend, ...Object.values(sni), ...Object.values(alpn)])];
  known.set(frontend, all);
  return all;
}

/** The same of a frontend as it was written. */
export function backendsWritten(frontend: Frontend): string[] {
  const own = frontend.backend === undefined ? [] : [frontend.backend];
  return [...new Set([...own, ...helloRoutes(frontend).map(({ backend }) => backend)])];
}

/** A name as a ClientHello has it (lower case, A-labels, no dot at the end), or why it is none. */
export function serverName(written: string): { ok: true; value: string } | { ok: false; message: string } {
  const wild = written.startsWith("*.");
  const rest = (wild ? written.slice(2) : written).replace(/\.$/, "");
  const no = (message: string) => ({ ok: false, message }) as const;
  if (written === "*") return no("is every name, which the frontend's backend is for");
  if (rest.includes("*")) return no('has "*" elsewhere than as its whole first label');
  const name = /^[\x21-\x7e]*$/.test(rest) ? rest.toLowerCase() : domainToASCII(rest);
  if (name === "" || !/^[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*$/.test(name) || name.length > 253)
    return no("is not a host name");
  if (/^[0-9.]+$/.test(name)) return no("is an IP address, which clients do not send as a name");
  return { ok: true, value: wild ? `*.${name}` : name };
}

/** What is wrong with names and protocols, and with routes where none can be. */
export function helloRouteRules(view: View): Finding[] {
  return view.frontends.flatMap((frontend) => {
    if (view.mode !== undefined && view.mode !== "proxy") {
      const why = `is not available in ${view.mode} mode: a packet is sent on before a ClientHello is whole`;
      return refused(frontend, why, 'nothing, or mode = "proxy"');
    }
    if (frontend.protocol === "udp") {
      return refused(
        frontend,
        "is not available with UDP, which no ClientHello begins",
        'nothing, or protocol = "tcp"',
      );
    }
    return [...names(frontend), ...protocols(frontend), ...references(frontend, view), ...idle(frontend)];
  });
}

function refused({ name, table }: Frontend, why: string, expected: string): Finding[] {
  return [...TABLES, "client_hello_timeout_ms"].flatMap((key) => {
    const value = table[key];
    const isOff = value === undefined || (isTable(value) && Object.keys(value).length === 0);
    if (isOff || value === DEFAULT_TIMEOUT_MS) return [];
    return [error(["frontends", name, key], "key", why, { expected })];
  });
}

function names({ name, table }: Frontend): Finding[] {
  if (!isTable(table.sni)) return [];
  const seen = new Map<string, string>();
  return Object.keys(table.sni).flatMap((written) => {
    const at = ["frontends", name, "sni", written];
    const parsed = serverName(written);
    if (!parsed.ok) {
      const expected = 'a name such as "app.example.com", or "*.example.com"';
      return [error(at, "key", parsed.message, { expected })];
    }
    const other = seen.get(parsed.value);
    seen.set(parsed.value, written);
    if (other === undefined) return [];
    return [error(at, "key", `is the same name as ${quote(other)}`, { expected: "each name once" })];
  });
}

function protocols({ name, table }: Frontend): Finding[] {
  if (!isTable(table.alpn)) return [];
  return Object.keys(table.alpn)
    .filter((protocol) => !isAlpnProtocol(protocol))
    .map((protocol) =>
      error(["frontends", name, "alpn", protocol], "key", "is not a protocol of ALPN", {
        expected: 'its identification in ASCII, such as "h2", "http/1.1" or "acme-tls/1"',
      }),
    );
}

/** Whether it can stand in a client's list of protocols. */
export function isAlpnProtocol(text: string): boolean {
  return text.length <= 255 && /^[\x21-\x7e]+$/.test(text);
}

function references(frontend: Frontend, { root, backends }: View): Finding[] {
  if (!isTable(root.backends)) return [];
  const known = [...backends.keys()];
  return helloRoutes(frontend).flatMap(({ at, backend }) => {
    if (Object.hasOwn(root.backends as Table, backend)) return [];
    const suggestion = nearest(backend, known);
    return [
      error(at, "value", "names no backend", {
        found: describeValue(backend),
        expected: known.length > 0 ? oneOf(known) : "a backend, and there is none",
        ...(suggestion === undefined ? {} : { suggestion }),
      }),
    ];
  });
}

/** A time that nobody waits for. */
function idle({ name, table }: Frontend): Finding[] {
  const routes = helloRoutes({ name, table }).length;
  const { client_hello_timeout_ms: timeout = DEFAULT_TIMEOUT_MS } = table;
  if (routes > 0 || timeout === DEFAULT_TIMEOUT_MS) return [];
  return [
    {
      severity: "warning",
      at: ["frontends", name, "client_hello_timeout_ms"],
      point: "key",
      message: "has no effect without routes in sni or alpn",
    },
  ];
}
