/** The frontend half of a `frontend` or `listen` section. */
import { haproxyBind } from "./addresses.ts";
import type { Table } from "./draft.ts";
import { haproxyDuration } from "./durations.ts";
import { setAccess, setListen, setSni } from "./emit.ts";
import { Acls, readRules } from "./haproxy-access.ts";
import type { HaproxyBackend } from "./haproxy-backend.ts";
import type { Line } from "./haproxy-lines.ts";
import type { Left, Settings } from "./haproxy-settings.ts";

interface Context {
  /** Of a listen section, its own servers. */
  own: HaproxyBackend | undefined;
  /** By the name that HAProxy has for them. */
  backends: ReadonlyMap<string, HaproxyBackend>;
  isListen: boolean;
}

export function readFrontend(table: Table, settings: Settings, context: Context, left: Left): void {
  const acls = new Acls();
  for (const line of settings.list("acl")) acls.add(line);
  const rules = readRules([...settings.list("tcp-request"), ...settings.list("use_backend")], acls, left);
  acls.tell(left);

  const bind = readBinds(settings.list("bind"), left);
  setListen(table, bind.listen, bind.line);
  const chosen = rules.backend ?? defaultBackend(settings);
  const mended = (name: string) => context.backends.get(name)?.name ?? name;
  if (chosen !== undefined) table.set("backend", mended(chosen.name), chosen.line);
  else if (context.isListen && context.own) table.set("backend", context.own.name, table.line);

  const maxconn = settings.number("maxconn");
  if (maxconn !== undefined) table.set("max_connections", maxconn.value, maxconn.line);
  table.set("tcp_user_timeout_ms", bind.userTimeout, bind.line);
  if (bind.fastOpen) table.set("tcp_fast_open", true, bind.line);
  const accept = rules.acceptProxy ?? (bind.acceptProxy ? { line: bind.line, trusted: [] } : undefined);
  if (accept !== undefined) {
    table.set("accept_proxy", true, accept.line);
    if (accept.trusted.length > 0) table.set("proxy_trusted", accept.trusted, accept.line);
  }
  setAccess(table, rules.lists, rules.accessLine);
  setSni(
    table,
    rules.sni.map((rule) => ({ ...rule, backend: mended(rule.backend) })),
  );

  const served = [chosen?.name, ...rules.sni.map(({ backend }) => backend)].map(
    (name) => name !== undefined && context.backends.get(name),
  );
  for (const backend of new Set([...served, chosen === undefined ? context.own : undefined])) {
    if (backend) backend.servesClientsOf(settings);
  }
}

function defaultBackend(settings: Settings): { name: string; line: number } | undefined {
  const line = settings.get("default_backend");
  return line && { name: line.words[1] ?? "", line: line.number };
}

interface Binds {
  listen: string[];
  /** Of the first. */
  line: number;
  acceptProxy: boolean;
  fastOpen: boolean;
  userTimeout: number | undefined;
}

const SILENT = new Set([
  "name",
  "v6only",
  "defer-accept",
  "process",
  "thread",
  "shards",
  "mode",
  "level",
  "id",
]);
/** Options with a value that are not taken over, with the reason. */
const LEFT: Readonly<Record<string, string>> = {
  maxconn: "max_connections of the frontend is the limit",
  interface: "a frontend listens on addresses: name one of the interface",
  namespace: "start it in that namespace",
  backlog: "the kernel's net.core.somaxconn is what counts",
  mss: "the kernel chooses the size of segments",
  nice: "all connections are alike",
};
const TLS = new Set(["ssl", "crt", "crt-list", "ca-file", "alpn", "strict-sni"]);

function readBinds(lines: readonly Line[], left: Left): Binds {
  const all: Binds = {
    listen: [],
    line: lines[0]?.number ?? 1,
    acceptProxy: false,
    fastOpen: false,
    userTimeout: undefined,
  };
  let proxied: boolean | undefined;
  for (const { words, number } of lines) {
    const [, addresses = "", ...options] = words;
    if (options.includes("ssl")) {
      left(
        number,
        "not taken over: TLS passes through, it is not ended here; let the servers end it, or what ends it now",
      );
      continue;
    }
    const acceptProxy = options.includes("accept-proxy");
    proxied ??= acceptProxy;
    if (acceptProxy !== proxied) {
      left(
        number,
        "not taken over: accept_proxy is for every address of a frontend, and the first is different; write another frontend",
      );
      continue;
    }
    all.acceptProxy = acceptProxy;
    for (const written of addresses.split(",")) {
      const bound = haproxyBind(written);
      if (!bound.ok) left(number, `"${written}" is not taken over: ${bound.message}`);
      else all.listen.push(...(options.includes("v4v6") ? bothFamilies(bound.listen) : bound.listen));
    }
    readBindOptions(options, all, (message) => left(number, message));
  }
  return all;
}

function readBindOptions(options: readonly string[], all: Binds, left: (message: string) => void): void {
  for (let i = 0; i < options.length; i++) {
    const option = options[i] as string;
    if (option === "tfo") all.fastOpen = true;
    else if (option === "tcp-ut") all.userTimeout = haproxyDuration(options[++i] ?? "");
    else if (option === "v4v6" || option === "accept-proxy") continue;
    else if (SILENT.has(option)) i += option === "v6only" || option === "defer-accept" ? 0 : 1;
    else if (Object.hasOwn(LEFT, option)) {
      left(`"${option}" is not taken over: ${LEFT[option]}`);
      i += 1;
    } else if (TLS.has(option)) i += 1;
    else left(`"${option}" is not taken over: there is nothing like it here`);
  }
}

const bothFamilies = (listen: readonly string[]): string[] =>
  listen.flatMap((text) => (text.startsWith("[::]:") ? [text, text.slice(4)] : [text]));
