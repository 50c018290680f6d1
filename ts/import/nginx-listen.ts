/** `listen` lines of a server in nginx. */
import { nginxListen } from "./addresses.ts";
import type { Table } from "./draft.ts";
import { setListen } from "./emit.ts";
import type { Directive } from "./nginx-blocks.ts";

type Left = (line: number, message: string) => void;

export interface Listens {
  protocol: "tcp" | "udp";
  listen: string[];
  write(table: Table): void;
}

/** What the kernel or the listener does by itself. */
const SILENT = /^(reuseport|bind|deferred|ipv6only=on|backlog=.*|default_server)$/;

/** Those of TCP and those of UDP: a frontend is one of the two. */
export function readListens(lines: readonly Directive[], left: Left): Listens[] {
  return (["tcp", "udp"] as const).flatMap((protocol) => {
    const own = lines.filter(({ args }) => args.includes("udp") === (protocol === "udp"));
    const read = own.length === 0 ? undefined : readOne(protocol, own, left);
    return read === undefined ? [] : [read];
  });
}

function readOne(protocol: "tcp" | "udp", lines: readonly Directive[], left: Left): Listens | undefined {
  const listen: string[] = [];
  const values = new Map<string, { value: boolean | number; line: number }>();
  let proxied: boolean | undefined;
  for (const { args, line } of lines) {
    const [address = "", ...options] = args;
    if (options.includes("ssl")) {
      left(line, "not taken over: TLS passes through, it is not ended here; the servers can end it");
      continue;
    }
    const acceptProxy = options.includes("proxy_protocol");
    proxied ??= acceptProxy;
    if (acceptProxy !== proxied) {
      left(
        line,
        "not taken over: accept_proxy is for every address of a frontend, and the first is different; write another frontend",
      );
      continue;
    }
    const bound = nginxListen(address);
    if (!bound.ok) {
      left(line, `not taken over: ${bound.message}`);
      continue;
    }
    listen.push(...bound.listen);
    for (const option of options) {
      const fastOpen = /^fastopen=(\d{1,5})$/.exec(option)?.[1];
      if (option === "proxy_protocol") values.set("accept_proxy", { value: true, line });
      else if (option === "multipath") values.set("mptcp", { value: true, line });
      else if (fastOpen !== undefined) values.set("tcp_fast_open", { value: Number(fastOpen), line });
      else if (option === "ipv6only=off" && address.startsWith("[::]:")) listen.push(address.slice(4));
      else if (option !== "udp" && !SILENT.test(option)) {
        left(line, `"${option}" is not taken over: there is nothing like it here`);
      }
    }
  }
  const [first] = lines;
  if (listen.length === 0 || first === undefined) return undefined;
  return {
    protocol,
    listen,
    write(table) {
      setListen(table, listen, first.line);
      if (protocol === "udp") table.set("protocol", protocol, first.line);
      for (const [key, { value, line }] of values) table.set(key, value, line);
    },
  };
}
