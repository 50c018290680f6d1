/** Turns what stopped a command into text for people: what failed, on what, what to try. */

interface KnownFailure {
  code?: unknown;
  problems?: unknown;
  port?: unknown;
}

/** Text for standard error, ending in a newline. Errors nobody foresaw keep their stack. */
export function failureText(error: unknown): string {
  const { code } = (error ?? {}) as KnownFailure;
  if (!(error instanceof Error) || typeof code !== "string") {
    const told = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return `convey: unexpected failure: ${told}\n`;
  }
  const remedy = remedyFor(code, error.message);
  return `convey: ${error.message}${remedy ? `\n  try: ${remedy}` : ""}\n`;
}

/** Messages of the packet modes, which name their remedy themselves. */
const COMPLETE = /\bCAP_NET_ADMIN\b|\banother convey\b|^No interface\b/;

function remedyFor(code: string, message: string): string | undefined {
  if (COMPLETE.test(message)) return undefined;
  switch (code) {
    case "BIND_FAILED":
    case "EADDRINUSE": {
      const port = /:(\d{1,5})\b(?!.*:\d)/.exec(message)?.[1];
      return `\`ss -ltnp${port ? ` 'sport = :${port}'` : ""}\` shows who holds the address; \`ip addr\` shows the addresses of this machine`;
    }
    case "PERMISSION_DENIED":
    case "EACCES":
      return "run as root, or grant the capability: AmbientCapabilities= in a systemd unit, --cap-add for a container";
    default:
      return undefined;
  }
}
