/** Rules between the keys of `[backends.<name>.health_check]`, and of what is done about servers that fail. */
import type { HostFacts } from "./host.ts";
import { describeValue, type Finding, type KeyPath, quote } from "./problem.ts";
import { parseStatusList } from "./status-list.ts";
import { type Backend, error, isTable, oncePerKind, type Table, type View, warning } from "./view.ts";

/** Keys of the table and the flat ones that say the same. */
export const TWINS = {
  interval_ms: "health_check_interval",
  fast_interval_ms: "health_check_fast_interval_ms",
  timeout_ms: "health_check_timeout_ms",
  rise: "health_check_rise",
  fall: "health_check_fall",
} as const;

/** Keys that only some types have. */
const TYPES_OF: Record<string, readonly string[]> = {
  method: ["http"],
  path: ["http"],
  host: ["http"],
  expect_body: ["http"],
  expect: ["http", "send_expect"],
  send: ["send_expect"],
  protocol: ["send_expect"],
  tls: ["tcp", "http", "send_expect"],
  tls_sni: ["tcp", "http", "send_expect"],
  tls_verify: ["tcp", "http", "send_expect"],
  tls_ca: ["tcp", "http", "send_expect"],
};

/** All findings; `host` is what is known of the machine. */
export function healthCheckTableRules(view: View, host: HostFacts): Finding[] {
  return [...view.backends.values()].flatMap((backend) => [
    ...ejection(view, backend),
    ...(isTable(backend.table.health_check) ? ofTable(view, backend, backend.table.health_check, host) : []),
  ]);
}

/** Whether texts are exchanged by datagrams: as written, else where all frontends of the backend are UDP. */
export const isUdpCheck = (written: unknown, protocols: readonly unknown[]): boolean =>
  written === undefined ? protocols.length > 0 && protocols.every((it) => it === "udp") : written === "udp";

function ofTable(view: View, backend: Backend, table: Table, host: HostFacts): Finding[] {
  const at = ["backends", backend.name, "health_check"];
  const { type = "tcp" } = table;
  if (typeof type !== "string") return [];
  return [
    ...twins(backend, table, at),
    ...misplaced(type, table, at),
    ...texts(view, backend, type, table, at),
    ...tls(table, at, host),
    ...vip(view, backend, type, table),
    ...sockets(view, backend, type, table),
  ];
}

function twins({ name, table: own }: Backend, table: Table, at: KeyPath): Finding[] {
  return Object.entries(TWINS).flatMap(([key, flat]) => {
    if (table[key] === undefined || own[flat] === undefined) return [];
    const other = `backends.${/^[A-Za-z0-9_-]+$/.test(name) ? name : quote(name, 255)}.${flat}`;
    const message = `says the same as ${other}, and one of them has to go`;
    return [error([...at, key], "key", message, { expected: `either ${key} or ${flat}` })];
  });
}

function misplaced(type: string, table: Table, at: KeyPath): Finding[] {
  return Object.keys(table).flatMap((key) => {
    if (key === "type") return [];
    const types = TYPES_OF[key];
    if (type === "none") {
      return types === undefined && !isShared(key)
        ? []
        : [error([...at, key], "key", 'has nothing to say where type = "none" leaves servers unchecked')];
    }
    if (types === undefined || types.includes(type)) return [];
    const message = `is no key of type ${quote(type)}`;
    return [
      error([...at, key], "key", message, {
        expected: `type = ${types.map((it) => quote(it)).join(" or ")}`,
      }),
    ];
  });
}

const isShared = (key: string): boolean =>
  Object.hasOwn(TWINS, key) || key === "port" || key === "down_interval_ms";

function texts(view: View, { name }: Backend, type: string, table: Table, at: KeyPath): Finding[] {
  const { expect, expect_body, method = "GET", send, protocol } = table;
  if (type === "http") {
    const list = typeof expect === "string" ? parseStatusList(expect) : undefined;
    const found = describeValue(expect);
    return [
      ...(list?.ok === false
        ? [
            error([...at, "expect"], "value", list.message, {
              found,
              expected: 'statuses from 200 to 599, such as "200-299,301"',
            }),
          ]
        : []),
      ...(expect_body !== undefined && method !== "GET"
        ? [
            error([...at, "expect_body"], "key", `looks into a body, which ${method} does not ask for`, {
              expected: 'method = "GET"',
            }),
          ]
        : []),
    ];
  }
  if (type !== "send_expect") return [];
  const protocols = view.frontends.filter((it) => it.backend === name).map((it) => it.protocol);
  if (!isUdpCheck(protocol, protocols)) {
    if (expect !== undefined) return [];
    return [
      error(at, "table", 'has type "send_expect" over TCP and nothing to expect', {
        expected: 'expect, "" for any answer; or type = "tcp" for a connection alone',
      }),
    ];
  }
  return [
    ...(send === undefined || send === ""
      ? [
          error(
            at,
            "table",
            'has type "send_expect" over UDP and nothing to send: no server answers unasked',
            { expected: "send" },
          ),
        ]
      : []),
    ...(table.tls === true
      ? [
          error([...at, "tls"], "value", "cannot be had over UDP", {
            found: "true",
            expected: 'false, or protocol = "tcp"',
          }),
        ]
      : []),
  ];
}

function tls(table: Table, at: KeyPath, { certificates }: HostFacts): Finding[] {
  const keys = ["tls_sni", "tls_verify", "tls_ca"].filter((key) => table[key] !== undefined);
  if (table.tls !== true) {
    return keys.map((key) =>
      error([...at, key], "key", "says how TLS is spoken, and no TLS is", { expected: "tls = true" }),
    );
  }
  const { tls_ca, tls_verify } = table;
  const findings: Finding[] = [];
  if (tls_ca !== undefined && tls_verify === false) {
    findings.push(warning([...at, "tls_ca"], "key", "has no effect, since tls_verify is false"));
  }
  const wrong = typeof tls_ca === "string" ? certificates?.get(tls_ca) : undefined;
  if (wrong !== undefined) {
    findings.push(error([...at, "tls_ca"], "value", wrong, { found: describeValue(tls_ca) }));
  }
  return findings;
}

/** Frontends' addresses are asked for by TCP handshakes that no socket of this host could make. */
function vip(view: View, { name, table: own }: Backend, type: string, table: Table): Finding[] {
  if (view.mode !== "dsr" || own.check === "address") return [];
  const beyond =
    type === "http" || type === "send_expect" ? `type ${quote(type)}` : table.tls === true ? "TLS" : "";
  if (beyond === "") return [];
  const method = own.dsr_method ?? (isTable(view.root.dsr) ? view.root.dsr.method : undefined);
  if (own.check === "vip") {
    return [
      error(
        ["backends", name, "check"],
        "value",
        `asks servers for the frontends' addresses, which ${beyond} cannot`,
        {
          found: '"vip"',
          expected:
            method === "l2"
              ? `no such key: then the frontend's address is asked by TCP, and the server's own by ${beyond}`
              : '"address", or type = "tcp"',
        },
      ),
    ];
  }
  if (method !== "l2") return [];
  return [
    warning(
      ["backends", name, "health_check"],
      "key",
      `asks servers by ${beyond} at their own addresses, and for the frontends' by a TCP handshake alone: a server that answers wrongly only there is not noticed`,
      { expected: 'check = "address" to ask at their own addresses alone, or type = "tcp"' },
    ),
  ];
}

/** Unix sockets have no port, and those of servers take no datagrams. */
function sockets({ frontends }: View, { name, servers }: Backend, type: string, table: Table): Finding[] {
  const socket = servers.find(({ table: { addr } }) => typeof addr === "string" && addr.startsWith("unix:"));
  if (socket === undefined || type === "none") return [];
  const at = ["backends", name, "health_check"];
  const which = `server ${quote(socket.name)}, which is a Unix socket`;
  const protocols = frontends.filter((it) => it.backend === name).map((it) => it.protocol);
  return [
    ...(type === "send_expect" && isUdpCheck(table.protocol, protocols)
      ? [
          error(
            [...at, ...(table.protocol === undefined ? [] : ["protocol"])],
            "value",
            `cannot ask ${which}, by UDP`,
            {
              found: describeValue(table.protocol ?? "udp"),
              expected: '"tcp"',
            },
          ),
        ]
      : []),
    ...(table.port === undefined
      ? []
      : [warning([...at, "port"], "key", `has no effect on ${which}`, { found: describeValue(table.port) })]),
  ];
}

function ejection({ mode }: View, { name, table }: Backend): Finding[] {
  const at = ["backends", name];
  const { eject_after } = table;
  if (typeof eject_after === "number" && eject_after > 0) {
    if (mode === undefined || mode === "proxy") return [];
    return [
      error(
        [...at, "eject_after"],
        "value",
        `is not available in ${mode} mode, which does not connect to servers itself`,
        {
          found: describeValue(eject_after),
          expected: '0, or mode = "proxy"',
        },
      ),
    ];
  }
  // A default that was written out says nothing.
  const idle = Object.entries({ eject_ms: 30_000, max_ejected_percent: 50 })
    .filter(([key, usual]) => table[key] !== undefined && table[key] !== usual)
    .map(([key]) => key);
  return oncePerKind(
    idle.map((key) => [...at, key]),
    "has no effect without eject_after",
  );
}
