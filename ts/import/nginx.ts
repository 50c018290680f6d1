/** nginx.conf: the `stream` block becomes frontends and backends. */
import { type Leftovers, Names, Table } from "./draft.ts";
import { nginxDuration } from "./durations.ts";
import { setSni } from "./emit.ts";
import { type Directive, nginxDirectives } from "./nginx-blocks.ts";
import { readListens } from "./nginx-listen.ts";
import { Scope } from "./nginx-scope.ts";
import { Upstreams } from "./nginx-upstream.ts";
import { reasonFor } from "./nginx-words.ts";

type Left = (line: number, message: string) => void;

/** Servers, networks and rules over all frontends. */
const MAX_SIZE = 20_000;

export function fromNginx(text: string, leftovers: Leftovers): Table {
  const left: Left = (line, message) => leftovers.add(line, message);
  const root = new Table(undefined);
  for (const directive of nginxDirectives(text, left)) {
    const { name, args, line, block } = directive;
    if (name === "stream" && block) stream(root, block, left);
    else if (name === "events" && block) for (const inner of block) leave(inner, left);
    else if (name === "worker_processes") {
      if (/^\d{1,4}$/.test(args[0] ?? ""))
        root.table("proxy", line, name).set("workers", Number(args[0]), line);
    } else if (name === "worker_shutdown_timeout" && nginxDuration(args[0] ?? "") !== undefined) {
      root.table("shutdown", line, name).set("drain_timeout_ms", nginxDuration(args[0] ?? ""), line);
    } else leave(directive, left);
  }
  return root;
}

function leave({ name, line }: Directive, left: Left): void {
  const reason = reasonFor(name);
  if (reason !== undefined) left(line, `not taken over: ${reason}`);
}

/** By the name that the ClientHello asks for. */
interface Choice {
  rules: { names: string[]; target: string; line: number }[];
  otherwise?: { target: string; line: number };
}

function stream(root: Table, block: readonly Directive[], left: Left): void {
  const outer = new Scope();
  const upstreams = new Upstreams(root.table("backends"), left);
  const maps = new Map<string, Choice>();
  const servers: Directive[] = [];
  for (const directive of block) {
    const { name, args, line, block: inner } = directive;
    if (name === "server" && inner) servers.push(directive);
    else if (name === "upstream" && inner) upstreams.add(args[0] ?? "", line, inner);
    else if (name === "map" && inner && args[0] === "$ssl_preread_server_name") {
      maps.set(args[1] ?? "", readMap(inner, left));
    } else if (name === "resolver") resolver(root, directive, left);
    else if (name === "access_log") {
      if (args[0] !== "off") root.table("log", line, name).set("connections", "all", line);
    } else if (!outer.read(directive, left)) leave(directive, left);
  }
  const frontends = { table: root.table("frontends"), names: new Names() };
  let size = 0;
  for (const server of servers) {
    // What servers have in common is written for each of them, so that a short file can be a large configuration.
    size += 1 + readServer(server, outer, frontends, { upstreams, maps }, left);
    if (size <= MAX_SIZE) continue;
    left(server.line, "the servers after this one are not taken over: the configuration would be too large");
    break;
  }
  upstreams.tellUnused();
}

function resolver(root: Table, { args, line }: Directive, left: Left): void {
  const servers = args.filter((arg) => !arg.includes("="));
  const table = root.table("resolver", line, "resolver");
  table.set("servers", servers, line);
  for (const arg of args) {
    if (arg.startsWith("valid=")) table.set("max_ttl_ms", nginxDuration(arg.slice(6)), line);
    else if (arg.includes("=") && arg !== "ipv6=on" && arg !== "ipv4=on") {
      left(line, `"${arg}" is not taken over: there is nothing like it here`);
    }
  }
}

function readServer(
  { line, block = [] }: Directive,
  outer: Scope,
  frontends: { table: Table; names: Names },
  { upstreams, maps }: { upstreams: Upstreams; maps: ReadonlyMap<string, Choice> },
  left: Left,
): number {
  const scope = new Scope(outer);
  const listens: Directive[] = [];
  let pass: Directive | undefined;
  for (const directive of block) {
    if (directive.name === "listen") listens.push(directive);
    else if (directive.name === "proxy_pass") pass = directive;
    else if (directive.name === "access_log" && directive.args[0] === "off") continue;
    else if (!scope.read(directive, left)) leave(directive, left);
  }
  const target = pass?.args[0] ?? "";
  if (pass === undefined) {
    left(line, "the server is not taken over: it has no proxy_pass");
    return 0;
  }
  for (const bound of readListens(listens, left)) {
    const { protocol } = bound;
    const port = /:(\d+(-\d+)?)$/.exec(bound.listen[0] ?? "")?.[1] ?? "";
    const name = frontends.names.take(`${protocol}_${port.replace("-", "_")}`);
    const table = frontends.table.table(name, line, "server");
    bound.write(table);
    const choice = maps.get(target);
    if (choice === undefined && target.includes("$")) {
      left(
        pass.line,
        'not taken over: of variables, one that a "map $ssl_preread_server_name" sets is understood',
      );
      frontends.table.tables.delete(name);
      continue;
    }
    const chosen = choice === undefined ? { target, line: pass.line } : choice.otherwise;
    if (chosen !== undefined) {
      table.set("backend", upstreams.backend(chosen.target, chosen.line, scope, protocol), chosen.line);
    }
    scope.writeFrontend(table, protocol, left);
    const rules = choice?.rules ?? [];
    setSni(
      table,
      rules.map((rule) => ({ ...rule, backend: upstreams.backend(rule.target, rule.line, scope, protocol) })),
    );
  }
  return scope.networks + (maps.get(target)?.rules.length ?? 0) + upstreams.sizeOf(target);
}

function readMap(block: readonly Directive[], left: Left): Choice {
  const choice: Choice = { rules: [] };
  const hostnames = block.some(({ name }) => name === "hostnames");
  for (const { name, args, line } of block) {
    const [target = ""] = args;
    if (name === "hostnames" || name === "volatile") continue;
    if (name === "default") choice.otherwise = { target, line };
    else if (name === "include") left(line, `not taken over: ${reasonFor("include")}`);
    else if (name.startsWith("~") || (hostnames && name.endsWith(".*"))) {
      left(line, "not taken over: names are whole, or begin with *., not regular expressions");
    } else if (hostnames && name.startsWith(".")) {
      choice.rules.push({ names: [name.slice(1), `*${name}`], target, line });
    } else choice.rules.push({ names: [name.replace(/^\\/, "")], target, line });
  }
  return choice;
}
