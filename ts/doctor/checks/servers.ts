/** Whether servers answer: a TCP connect to each, where health checks begin with one. */
import { hostPort } from "../../config/address.ts";
import { askOf, checkSettings, isChecked } from "../../control/health/ask.ts";
import { error, type Found, ok } from "../finding.ts";
import { type Check, type Look, type Server, servers } from "../look.ts";

/** How many are asked at once. */
const AT_ONCE = 64;

export const serversReachable: Check = {
  name: "servers",
  async find(look) {
    const all = servers(look).filter((server) => isAskedByTcp(look, server));
    const found: Found[] = [];
    for (let i = 0; i < all.length; i += AT_ONCE) {
      found.push(...(await Promise.all(all.slice(i, i + AT_ONCE).map((server) => ask(look, server)))));
    }
    return found;
  },
};

/** Where checks connect to a server; nothing is known of one that is asked by datagrams, or not at all. */
function isAskedByTcp({ config }: Look, { backend }: Server): boolean {
  const settings = config.backends[backend];
  return settings !== undefined && isChecked(settings) && askOf(config, backend)?.kind !== "datagram";
}

async function ask({ host, config }: Look, { key, backend, address: own }: Server): Promise<Found> {
  const settings = config.backends[backend];
  const address = { ...own, port: settings?.health_check?.port ?? own.port };
  const at = hostPort(address);
  const timeout = settings === undefined ? 2000 : checkSettings(settings).timeoutMs;
  const code = await host.connect(address, timeout);
  if (code === undefined) return ok(`${key} answers`, `TCP connect to ${at}`, key);
  return error({
    subject: key,
    title: `${key} ${WORDS[code] ?? `cannot be asked (${code})`}`,
    evidence: `TCP connect to ${at}: ${code === "TIMEOUT" ? `nothing within ${timeout} ms` : code}`,
    consequence:
      "Health checks take it out of rotation; the other servers of its backend get its share, or nobody does.",
    remedy: remedy(code, backend, key, address.port),
  });
}

const WORDS: Readonly<Record<string, string>> = {
  ECONNREFUSED: "refuses connections",
  TIMEOUT: "does not answer",
  EHOSTUNREACH: "cannot be found on its link",
  ENETUNREACH: "has no route to it",
  EACCES: "must not be asked",
};

function remedy(code: string, backend: string, key: string, port: number): string {
  const off = `backends.${backend}.servers.${key.slice(backend.length + 1)}.weight = 0`;
  if (code === "ECONNREFUSED")
    return `on the server: start what listens on port ${port} (ss -ltn 'sport = :${port}'); or ${off}`;
  return `on the server: see that it is up and no packet filter drops port ${port} (nft list ruleset); or ${off}`;
}
