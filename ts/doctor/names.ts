/** The servers that are reached by a name: what DNS says of each, asked once for all checks. */
import type { Config } from "../config/schema.ts";
import { isResolved, parseServerAddress, type ServerAddress } from "../config/server-address.ts";
import type { Answered } from "./host.ts";
import { backendServers, type Look } from "./look.ts";

/** As long as a start waits for it. */
export const NAME_TIMEOUT_MS = 5000;

export type NamedServer = {
  /** `backend/server`. */
  key: string;
  backend: string;
  name: ServerAddress & { kind: "name" | "srv" };
  /** Which of its addresses are servers. */
  resolve: "all" | "first";
  answered: Answered;
};

const asked = new WeakMap<Look, Promise<NamedServer[]>>();

/** Servers by name that a frontend uses and that have a weight, with the answers. */
export function namedServers(look: Look): Promise<NamedServer[]> {
  const known = asked.get(look) ?? ask(look);
  asked.set(look, known);
  return known;
}

async function ask(look: Look): Promise<NamedServer[]> {
  const { host, config } = look;
  const answers = new Map<string, Promise<Answered>>();
  const servers = backendServers(look).flatMap(({ addr, ...server }) => {
    const address = parseServerAddress(addr);
    return address.ok && isResolved(address.value) ? [{ ...server, addr, name: address.value }] : [];
  });
  for (const { addr, name } of servers) {
    if (!answers.has(addr)) answers.set(addr, host.resolve(name, config.resolver, NAME_TIMEOUT_MS));
  }
  return await Promise.all(
    servers.map(async ({ addr, ...server }) => ({
      ...server,
      answered: (await answers.get(addr)) as Answered,
    })),
  );
}

/** Who is asked, in words. */
export const askedOf = ({ servers }: Config["resolver"]): string =>
  servers.length === 0 ? "the DNS servers of the system" : servers.join(", ");
