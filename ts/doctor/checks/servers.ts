/**
 * Whether servers answer: a TCP connect to each, and to the addresses of those that have a name, where health checks
 * begin with one; a connect to each Unix socket.
 */
import { hostPort } from "../../config/address.ts";
import { parseServerAddress } from "../../config/server-address.ts";
import { askOf, checkSettings, isChecked } from "../../control/health/ask.ts";
import { error, type Found, ok } from "../finding.ts";
import { backendServers, type Check, type Look, type Server, servers } from "../look.ts";
import { namedServers } from "../names.ts";

/** How many are asked at once. */
const AT_ONCE = 64;

export const serversReachable: Check = {
  name: "servers",
  async find(look) {
    const all = [...servers(look), ...(await ofNames(look))].filter((server) => isAskedByTcp(look, server));
    const asks = [...all.map((server) => () => ask(look, server)), ...sockets(look)];
    const found: Found[] = [];
    for (let i = 0; i < asks.length; i += AT_ONCE) {
      found.push(...(await Promise.all(asks.slice(i, i + AT_ONCE).map((one) => one()))));
    }
    return found;
  },
};

type Asked = Pick<Server, "key" | "backend" | "address">;

/** The addresses that connections to named servers go to. */
async function ofNames(look: Look): Promise<Asked[]> {
  return (await namedServers(look)).flatMap(({ key, backend, resolve, answered: { addresses } }) =>
    (resolve === "first" ? addresses.slice(0, 1) : addresses).map((address) => ({ key, backend, address })),
  );
}

/** A Unix socket that nobody listens on is told of with or without checks: its connections fail. */
function sockets(look: Look): (() => Promise<Found>)[] {
  return backendServers(look).flatMap(({ key, backend, addr }) => {
    const parsed = parseServerAddress(addr);
    if (!parsed.ok || parsed.value.kind !== "unix") return [];
    const { path } = parsed.value;
    return [() => askSocket(look, key, backend, path)];
  });
}

async function askSocket({ host, config }: Look, key: string, backend: string, path: string): Promise<Found> {
  const settings = config.backends[backend];
  const timeout = settings === undefined ? 2000 : checkSettings(settings).timeoutMs;
  const code = await host.connectUnix(path, timeout);
  if (code === undefined) return ok(`${key} answers`, `connect to the Unix socket ${path}`, key);
  const [what, remedy] = SOCKET_WORDS[code] ?? [`cannot be asked (${code})`, `look at ${path} on this host`];
  return error({
    subject: key,
    title: `${key}: ${what}`,
    evidence: `connect to the Unix socket ${path}: ${code === "TIMEOUT" ? `nothing within ${timeout} ms` : code}`,
    consequence: "Connections to it fail; the other servers of its backend get its share, or nobody does.",
    remedy: `${remedy}; or ${weightOff(backend, key)}`,
  });
}

/** What is wrong with a Unix socket, and what to do about it. */
const SOCKET_WORDS: Readonly<Record<string, readonly [string, string]>> = {
  ENOENT: ["there is no such socket", "start the server that makes the socket, or correct its path"],
  ECONNREFUSED: ["nobody listens on the socket", "start the server; what is there was left behind"],
  EACCES: [
    "this user may not connect to the socket",
    "let the user that the balancer runs as write to the socket and search its folders",
  ],
  EPROTOTYPE: ["the socket is none of streams", "have the server listen with SOCK_STREAM"],
  EAGAIN: ["its queue of new connections is full", "see that the server accepts, or raise its backlog"],
  TIMEOUT: ["its queue of new connections is full", "see that the server accepts, or raise its backlog"],
};

/** Where checks connect to a server; nothing is known of one that is asked by datagrams, or not at all. */
function isAskedByTcp({ config }: Look, { backend }: Asked): boolean {
  const settings = config.backends[backend];
  return settings !== undefined && isChecked(settings) && askOf(config, backend)?.kind !== "datagram";
}

async function ask({ host, config }: Look, { key, backend, address: own }: Asked): Promise<Found> {
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

const weightOff = (backend: string, key: string): string =>
  `backends.${backend}.servers.${key.slice(backend.length + 1)}.weight = 0`;

function remedy(code: string, backend: string, key: string, port: number): string {
  const off = weightOff(backend, key);
  if (code === "ECONNREFUSED")
    return `on the server: start what listens on port ${port} (ss -ltn 'sport = :${port}'); or ${off}`;
  return `on the server: see that it is up and no packet filter drops port ${port} (nft list ruleset); or ${off}`;
}
