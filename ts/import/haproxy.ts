/** haproxy.cfg: sections become frontends and backends, in mode tcp. */
import { type Leftovers, Names, Table } from "./draft.ts";
import { haproxyDuration } from "./durations.ts";
import { HaproxyBackend } from "./haproxy-backend.ts";
import { readFrontend } from "./haproxy-frontend.ts";
import { haproxyLines, type Line } from "./haproxy-lines.ts";
import { haproxySections, type ProxySection } from "./haproxy-sections.ts";
import { type Place, Settings } from "./haproxy-settings.ts";
import { reasonFor, settingOf } from "./haproxy-words.ts";

export function fromHaproxy(text: string, left: Leftovers): Table {
  const tell = (line: number, message: string) => left.add(line, message);
  const lines = haproxyLines(text, (line) => tell(line, "not taken over: a quote does not end"));
  const sections = haproxySections(lines, tell);
  const root = new Table(undefined);
  const limits: Place = { connections: undefined };
  globalKeys(root, sections.global, limits, tell);
  resolver(root, sections.resolvers, tell);
  const defaults = new Map(sections.defaults.map((each) => [each, Settings.ofDefaults(each.lines, tell)]));
  const proxies = sections.proxies.flatMap((proxy) => {
    // Of a section that is left as a whole, its lines are not told one by one.
    const told: [number, string][] = [];
    const settings = Settings.of(proxy, defaults.get(proxy.defaults), (...problem) => told.push(problem));
    if (!isTcp(proxy, settings, tell)) return [];
    for (const problem of told) tell(...problem);
    return [{ proxy, settings }];
  });

  const backends = new Map<string, HaproxyBackend>();
  const names = { frontends: new Names(), backends: new Names() };
  const named = (proxy: ProxySection, of: Names) =>
    of.take(proxy.name, (name) =>
      tell(proxy.line, `its name is "${name}" here: names are unique and have no "/"`),
    );
  for (const { proxy, settings } of proxies) {
    if (proxy.kind === "frontend" || backends.has(proxy.name)) continue;
    backends.set(proxy.name, new HaproxyBackend(named(proxy, names.backends), proxy, settings, tell));
  }
  const frontends = root.table("frontends");
  for (const { proxy, settings } of proxies) {
    if (proxy.kind === "backend") continue;
    const table = frontends.table(named(proxy, names.frontends), proxy.line, `${proxy.kind} ${proxy.name}`);
    readFrontend(
      table,
      settings,
      { own: backends.get(proxy.name), backends, isListen: proxy.kind === "listen" },
      tell,
    );
  }
  const pools = root.table("backends");
  for (const backend of backends.values()) {
    // One that no frontend uses and that has no servers is there for its table, which is told of.
    if (backend.isUsed || backend.servers > 0) pools.tables.set(backend.name, backend.table(limits));
  }
  connectionLog(
    root,
    proxies.map(({ settings }) => settings),
  );
  return root;
}

/** Proxies in mode http are named as a whole: nothing in them means the same for connections. */
function isTcp(
  proxy: ProxySection,
  settings: Settings,
  left: (line: number, message: string) => void,
): boolean {
  const mode = settings.get("mode");
  if (mode === undefined || mode.words[1] === "tcp") return true;
  left(
    proxy.line,
    `the section is not taken over: it is in mode ${mode.words[1] ?? ""} (line ${mode.number}), and here connections are relayed whatever they hold; in mode tcp it can be`,
  );
  return false;
}

function globalKeys(
  root: Table,
  lines: readonly Line[],
  limits: Place,
  left: (line: number, message: string) => void,
): void {
  for (const { words, number } of lines) {
    const [key = "", value = ""] = words;
    if (key === "maxconn" && /^\d{1,10}$/.test(value)) {
      limits.connections = { value: Number(value), line: number };
      root.table("limits", number, "global").set("max_connections", Number(value), number);
    } else if (key === "nbthread" && /^\d{1,5}$/.test(value)) {
      root.table("proxy", number, "global").set("workers", Number(value), number);
    } else if (key === "hard-stop-after" && haproxyDuration(value) !== undefined) {
      root.table("shutdown", number, "global").set("drain_timeout_ms", haproxyDuration(value), number);
    } else {
      const reason = reasonFor(settingOf(words));
      if (reason !== undefined) left(number, `not taken over: ${reason}`);
    }
  }
}

function resolver(root: Table, lines: readonly Line[], left: (line: number, message: string) => void): void {
  const servers: string[] = [];
  const [first] = lines;
  if (first === undefined) return;
  const table = root.table("resolver", first.number - 1, "resolvers");
  for (const { words, number } of lines) {
    const [key = "", a = "", b = ""] = words;
    if (key === "nameserver") servers.push(b.replace(/^udp@/, ""));
    else if (key === "resolve_retries" && /^\d{1,3}$/.test(a)) table.set("retries", Number(a), number);
    else if (key === "timeout" && a === "retry") table.set("timeout_ms", haproxyDuration(b), number);
    else if (key === "hold" && a === "valid") table.set("max_ttl_ms", haproxyDuration(b), number);
    else if (key === "hold" && a === "nx") table.set("hold_ms", haproxyDuration(b), number);
    else if (key !== "parse-resolv-conf") left(number, "not taken over: there is nothing like it here");
  }
  if (servers.length > 0) table.set("servers", servers, first.number);
}

/** `option tcplog` of any proxy: lines are for all frontends here. */
function connectionLog(root: Table, all: readonly Settings[]): void {
  const asked = all.map((settings) => settings.option("tcplog")).find((line) => line !== undefined);
  if (asked === undefined) return;
  const errors = all.some((settings) => settings.option("dontlog-normal") !== undefined);
  root
    .table("log", asked.number, "option tcplog")
    .set("connections", errors ? "errors" : "all", asked.number);
}
