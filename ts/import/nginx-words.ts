/** Directives of an nginx.conf that are not taken over, each with the reason; and those that need not be. */

const NOTHING_LOST = new Set([
  "daemon",
  "master_process",
  "load_module",
  "pcre_jit",
  "worker_connections",
  "use",
  "multi_accept",
  "zone",
  "tcp_nodelay",
  "proxy_buffer_size",
  "preread_buffer_size",
  "preread_timeout",
  "variables_hash_max_size",
  "variables_hash_bucket_size",
  "map_hash_max_size",
  "map_hash_bucket_size",
]);

const REASONS: Readonly<Record<string, string>> = {
  include: "files that are included are not followed: give the output of `nginx -T` instead",
  http: "it is not about HTTP: connections are relayed whatever they hold",
  mail: "it is not about mail",
  user: "the service manager says as which user it runs (samples/systemd)",
  pid: "the service manager knows its process",
  error_log: "the log goes to standard error; log.level says how much",
  access_log: 'log.connections is for all frontends: "all" writes a line for each connection',
  log_format: "lines for connections are JSON with fields of their own",
  worker_rlimit_nofile: "the service manager sets the limit on open files",
  worker_cpu_affinity: "the service manager can bind it to cores",
  limit_conn: "limits.max_connections_per_client and max_connections of the frontend are the limits",
  limit_conn_zone: "limits.max_connections_per_client and max_connections of the frontend are the limits",
  proxy_ssl: "it begins no TLS: connections are relayed as they are",
  proxy_upload_rate: "connections are as fast as both sides are",
  proxy_download_rate: "connections are as fast as both sides are",
  proxy_next_upstream_timeout:
    "retry_timeout_ms is for how long servers are tried again, once all have failed",
  proxy_socket_keepalive: "idle_timeout_ms ends connections of which nothing is heard",
  proxy_half_close: "the end of one direction is passed on, and the other goes on, always",
  proxy_session_drop: "sessions end by their idle timeout",
  split_clients: "weights of servers are what there is",
  geo: "allow and deny are what there is for addresses",
  return: "it says nothing by itself",
  js_import: "there are no scripts",
  js_access: "there are no scripts",
  js_preread: "there are no scripts",
  js_filter: "there are no scripts",
  status_zone: "every frontend and backend is counted",
  health_check: "write [backends.<name>.health_check]",
  resolver_timeout: "resolver.timeout_ms is for one question, not for all of them",
  server_name: "frontends are told by their addresses",
  ip_hash: 'balance = "source_hash" is that',
  least_time: 'balance = "least_connections" comes next to it',
};

/** Why a directive is not taken over; undefined when nothing is lost. */
export function reasonFor(name: string): string | undefined {
  if (NOTHING_LOST.has(name)) return undefined;
  const own = Object.hasOwn(REASONS, name) ? REASONS[name] : undefined;
  if (own !== undefined) return own;
  if (name.startsWith("proxy_ssl_")) return REASONS.proxy_ssl;
  if (name.startsWith("ssl_")) return "TLS passes through, it is not ended here";
  return "there is nothing like it here";
}
