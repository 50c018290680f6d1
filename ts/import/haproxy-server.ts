/** What stands behind the address of a `server`, and in `default-server`. */
import { haproxyDuration } from "./durations.ts";

export interface ServerOptions {
  weight?: number;
  max_connections?: number;
  check?: boolean;
  backup?: boolean;
  disabled?: boolean;
  send_proxy?: "v1" | "v2";
  source?: string;
  /** Of the backend here, of each server there. */
  slow_start_ms?: number;
  on_down?: "keep" | "reset";
  /** Keys of `health_check`. */
  interval_ms?: number;
  fast_interval_ms?: number;
  down_interval_ms?: number;
  rise?: number;
  fall?: number;
  port?: number;
  tls?: boolean;
  tls_verify?: boolean;
  tls_sni?: string;
}

/** Sets what a word says; the value of words without one is "". False when the value is none that is understood. */
type Take = (options: ServerOptions, value: string) => boolean;

const whole = (text: string): number | undefined => (/^\d{1,10}$/.test(text) ? Number(text) : undefined);

const set =
  <K extends keyof ServerOptions>(key: K, read: (text: string) => ServerOptions[K] | undefined): Take =>
  (options, text) => {
    const value = read(text);
    if (value !== undefined) options[key] = value;
    return value !== undefined;
  };

const flag = (key: "check" | "backup" | "disabled" | "tls", value: boolean): Take => set(key, () => value);
const proxy = (version: "v1" | "v2"): Take => set("send_proxy", () => version);

const WITHOUT_VALUE: Readonly<Record<string, Take>> = {
  check: flag("check", true),
  "no-check": flag("check", false),
  backup: flag("backup", true),
  "no-backup": flag("backup", false),
  disabled: flag("disabled", true),
  enabled: flag("disabled", false),
  "send-proxy": proxy("v1"),
  "send-proxy-v2": proxy("v2"),
  "check-ssl": flag("tls", true),
  // Checks say who they are as connections do.
  "check-send-proxy": () => true,
};

const WITH_VALUE: Readonly<Record<string, Take>> = {
  weight: set("weight", whole),
  maxconn: set("max_connections", whole),
  inter: set("interval_ms", haproxyDuration),
  fastinter: set("fast_interval_ms", haproxyDuration),
  downinter: set("down_interval_ms", haproxyDuration),
  rise: set("rise", whole),
  fall: set("fall", whole),
  port: set("port", whole),
  slowstart: set("slow_start_ms", haproxyDuration),
  "check-sni": set("tls_sni", (text) => text),
  verify: (options, value) => {
    if (value === "none") options.tls_verify = false;
    return value === "none" || value === "required";
  },
  "on-marked-down": set("on_down", (text) => (text === "shutdown-sessions" ? "reset" : undefined)),
  // Names are resolved anyhow; [resolver] says by whom.
  resolvers: () => true,
  "init-addr": () => true,
};

/** Words that are not taken over: how many values follow, and why. */
const LEFT: Readonly<Record<string, readonly [number, string]>> = {
  cookie: [1, 'cookies are HTTP; balance = "source_hash" keeps a client at its server'],
  track: [1, "each backend checks its own servers"],
  id: [1, "servers are told by their names"],
  observe: [1, "eject_after of the backend takes a server out that fails connections"],
  "error-limit": [1, "eject_after of the backend takes a server out that fails connections"],
  "on-error": [1, "eject_after of the backend takes a server out that fails connections"],
  "on-marked-up": [1, "connections stay where they are"],
  addr: [1, "checks ask the address of the server; check a port with port"],
  "agent-check": [0, "there are no agents: weights change by `convey weight` or the HTTP server"],
  "agent-port": [1, "there are no agents"],
  "agent-addr": [1, "there are no agents"],
  "agent-inter": [1, "there are no agents"],
  "agent-send": [1, "there are no agents"],
  minconn: [1, "limits do not move with the load; max_connections is the limit"],
  maxqueue: [1, "there is one queue for the backend: queue"],
  "send-proxy-v2-ssl": [0, 'TLS passes through, so there is nothing to tell of it; use send_proxy = "v2"'],
  "send-proxy-v2-ssl-cn": [0, 'TLS passes through, so there is nothing to tell of it; use send_proxy = "v2"'],
  "proxy-v2-options": [1, "a header of version 2 says who the client is"],
  "resolve-prefer": [1, "addresses of both families are used"],
  "resolve-net": [1, "all addresses of a name are used"],
  "resolve-opts": [1, "all addresses of a name are used"],
  "tcp-ut": [1, "it is a key of the backend: tcp_user_timeout_ms"],
  namespace: [1, "start it in that namespace"],
  tfo: [0, "connections to servers do not begin with data"],
};

/** Words of TLS between HAProxy and the server: how many values follow. */
const TLS: Readonly<Record<string, number>> = { ssl: 0, crt: 1, "ca-file": 1, sni: 1, alpn: 1, ciphers: 1 };

/** Adds what the words say. `left` is told why a word is not taken over. */
export function readServerOptions(
  words: readonly string[],
  options: ServerOptions,
  left: (message: string) => void,
): { tls: boolean } {
  let tls = false;
  // The values of a word nobody knows look like words nobody knows: it is told once.
  let unknown = false;
  for (let i = 0; i < words.length; i++) {
    const word = words[i] as string;
    const value = words[i + 1] ?? "";
    const known = entry(WITHOUT_VALUE, word);
    const valued = entry(WITH_VALUE, word);
    const why = entry(LEFT, word);
    const values = entry(TLS, word);
    const before: boolean = unknown;
    unknown = false;
    if (known !== undefined) {
      known(options, "");
    } else if (valued !== undefined) {
      if (!valued(options, value)) left(`"${word} ${value}" is not taken over: no such value is known here`);
      i += 1;
    } else if (word === "source") {
      i = readSource(words, i, options, left);
    } else if (why !== undefined) {
      left(`"${word}" is not taken over: ${why[1]}`);
      i += why[0];
    } else if (values !== undefined) {
      tls ||= word === "ssl";
      i += values;
    } else {
      unknown = true;
      if (!before) left(`"${word}" is not taken over: there is nothing like it here`);
    }
  }
  return { tls };
}

function readSource(
  words: readonly string[],
  at: number,
  options: ServerOptions,
  left: (message: string) => void,
): number {
  const address = words[at + 1] ?? "";
  let end = at + 1;
  if (words[end + 1] === "usesrc") {
    const who = words[end + 2] ?? "";
    if (who === "client" || who === "clientip") options.source = "client";
    else left(`"usesrc ${who}" is not taken over: source is an address or "client"`);
    end += 2;
  } else if (/[:]\d/.test(address) && !address.includes("::")) {
    left("a source with ports is not taken over: the kernel chooses the port");
  } else {
    options.source = address;
  }
  return end;
}

const entry = <T>(table: Readonly<Record<string, T>>, key: string): T | undefined =>
  Object.hasOwn(table, key) ? table[key] : undefined;
