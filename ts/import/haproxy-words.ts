/** Words of a haproxy.cfg that are not taken over, each with the reason; and those that need not be. */

/** What Convey does by itself, or what has no effect on TCP in HAProxy either. */
const NOTHING_LOST = [
  "daemon",
  "master-worker",
  "log global",
  "log-tag",
  "description",
  "errorfile",
  "hash-type",
  "option redispatch",
  "option tcp-smart-accept",
  "option tcp-smart-connect",
  "option splice-auto",
  "option splice-request",
  "option splice-response",
  "option dontlognull",
  "option httplog",
  "option httpclose",
  "option http-server-close",
  "option http-keep-alive",
  "option http-ignore-probes",
  "option forwardfor",
  "option forwarded",
  "option logasap",
  "option log-health-checks",
  "timeout http-request",
  "timeout http-keep-alive",
  "timeout tarpit",
  "option prefer-last-server",
  "option contstats",
  "option log-separate-errors",
] as const;

const REASONS: Readonly<Record<string, string>> = {
  user: "the service manager says as which user it runs (samples/systemd)",
  group: "the service manager says as which group it runs (samples/systemd)",
  uid: "the service manager says as which user it runs (samples/systemd)",
  gid: "the service manager says as which group it runs (samples/systemd)",
  chroot: "the service manager fences it in (samples/systemd)",
  pidfile: "the service manager knows its process",
  log: "the log goes to standard error, lines for connections to log.connections_file if wanted",
  "log-format": "lines for connections are JSON with fields of their own",
  stats: "write [stats] with a port: dashboard, JSON and metrics; commands have a socket of their own",
  nbproc: "there is one process; proxy.workers is its threads",
  "cpu-map": "the service manager can bind it to cores",
  "ulimit-n": "the service manager sets the limit on open files",
  "ca-base": "TLS passes through, it is not ended here",
  "crt-base": "TLS passes through, it is not ended here",
  "server-template": "write one server with a name: every address that DNS has for it becomes one",
  stick: 'there are no tables; balance = "source_hash" keeps a client at its server',
  "stick-table": 'there are no tables; balance = "source_hash" keeps a client at its server',
  "rate-limit": "max_connection_rate of the frontend is the limit",
  fullconn: "limits do not move with the load; max_connections is the limit",
  backlog: "the kernel's net.core.somaxconn is what counts",
  monitor: "/healthz and /readyz of [stats] say whether it serves",
  "monitor-net": "/healthz and /readyz of [stats] say whether it serves",
  "monitor-uri": "/healthz and /readyz of [stats] say whether it serves",
  "email-alert": "it sends no mail: watch `convey events` or the metrics",
  "external-check": "checks are TCP, HTTP or an exchange of texts",
  disabled: "leave the section out, or set the weights of its servers to 0",
  enabled: "it is so anyhow",
  dispatch: "name servers, and one of them is chosen",
  "use-server": "the balance of the backend chooses the server",
  "tcp-response": "what connections hold is not looked at",
  filter: "there are no filters",
  source: 'it is taken from the servers: write source = "…" in the backend',
  "option tcpka":
    "idle_timeout_ms ends connections of which nothing is heard, tcp_user_timeout_ms those whose peer is gone",
  "option clitcpka":
    "idle_timeout_ms ends connections of which nothing is heard, tcp_user_timeout_ms those whose peer is gone",
  "option srvtcpka":
    "idle_timeout_ms ends connections of which nothing is heard, tcp_user_timeout_ms those whose peer is gone",
  "option transparent": "connections go to servers that are named",
  "option ssl-hello-chk": 'type = "tcp" with tls = true in health_check asks for a handshake',
  "option mysql-check": "checks are TCP, HTTP or an exchange of texts; TCP is what stands there now",
  "option pgsql-check": "checks are TCP, HTTP or an exchange of texts; TCP is what stands there now",
  "option redis-check": String.raw`write type = "send_expect", send = 'PING\r\n', expect = "+PONG" in health_check; TCP is what stands there now`,
  "option smtpchk":
    'write type = "send_expect", expect = "220" in health_check; TCP is what stands there now',
  "option ldap-check": "checks are TCP, HTTP or an exchange of texts; TCP is what stands there now",
  "option external-check": "checks are TCP, HTTP or an exchange of texts; TCP is what stands there now",
  "option allbackups": "servers with backup = true are used together anyhow when no other is up",
  "option abortonclose": "a client that resets leaves the queue anyhow",
  "option persist": "a server that is down gets no connections",
  "option nolinger": "the end of a connection is passed on as it is",
  "option independent-streams": "a connection is idle when neither side moves",
};

const PREFIXES: readonly (readonly [string, string])[] = [
  ["tune.", "buffers and sockets look after themselves"],
  ["ssl-", "TLS passes through, it is not ended here"],
  ["http-", "it is not about HTTP"],
  ["h1-", "it is not about HTTP"],
  ["stats ", "write [stats] with a port: dashboard, JSON and metrics"],
  ["lua-", "there are no scripts"],
];

/** The name of a setting: with its second word where the first is one of many. */
export function settingOf(words: readonly string[]): string {
  const named = words[0] === "no" || words[0] === "default" ? words.slice(1) : words;
  const [first = "", second = ""] = named;
  const pair = first === "timeout" || first === "option" || (first === "log" && second === "global");
  return pair ? `${first} ${second}` : first;
}

/** Why a setting is not taken over; undefined when nothing is lost. */
export function reasonFor(setting: string): string | undefined {
  if ((NOTHING_LOST as readonly string[]).includes(setting)) return undefined;
  const own = Object.hasOwn(REASONS, setting) ? REASONS[setting] : undefined;
  return own ?? PREFIXES.find(([start]) => setting.startsWith(start))?.[1] ?? "there is nothing like it here";
}
