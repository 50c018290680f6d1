/**
 * What only the machine knows on which a balancer will run: its own addresses, the token of the HTTP server, the
 * group of the commands' socket and the certificates that health checks trust.
 * `run`, reloading and `validate` judge a configuration with it; `convey config` and `explain` without.
 */
import { networkInterfaces } from "node:os";
import { isLoopback } from "./address.ts";
import { unusableCertificates } from "./certificates.ts";
import { findGroup, type GroupResult } from "./group.ts";
import { describeValue, type Finding } from "./problem.ts";
import { readToken, type TokenResult } from "./token.ts";
import { error, isTable, type View } from "./view.ts";

export interface HostFacts {
  /** Addresses of the interfaces that are up. */
  addresses: ReadonlySet<string>;
  /** The token that [stats] would get here; undefined when nobody has looked. */
  token: TokenResult | undefined;
  /** The group of stats.socket_group here; undefined when there is none or nobody has looked. */
  group?: GroupResult;
  /** Files of certificates that health checks cannot use, and why. */
  certificates?: ReadonlyMap<string, string>;
}

/** Nothing is known: rules that need the host do not speak. */
export const ELSEWHERE: HostFacts = { addresses: new Set(), token: undefined };

/** Looks at this host for a configuration that was read, valid or not. */
export async function hostFacts(input: unknown, env: NodeJS.ProcessEnv = process.env): Promise<HostFacts> {
  const stats = isTable(input) && isTable(input.stats) ? input.stats : undefined;
  const file = stats?.token_file;
  const known = stats !== undefined && (file === undefined || (typeof file === "string" && file !== ""));
  const group = stats?.socket_group;
  return {
    ...hereFacts(),
    token: known ? await readToken(file as string | undefined, env) : undefined,
    ...(typeof group === "string" ? { group: await findGroup(group) } : {}),
    certificates: await unusableCertificates(input),
  };
}

/** This host's addresses alone. */
export function hereFacts(): HostFacts {
  const addresses = Object.values(networkInterfaces()).flatMap((list) => list?.map((a) => a.address) ?? []);
  return { addresses: new Set(addresses), token: undefined };
}

/** What is wrong with the token, and where the HTTP server needs one. */
export function tokenRules({ root, stats }: View, { token }: HostFacts): Finding[] {
  if (token === undefined || !isTable(root.stats)) return [];
  const { bind, token_file } = root.stats;
  if (!token.ok) {
    const found = token_file === undefined ? {} : { found: describeValue(token_file) };
    const [at, point] =
      token_file === undefined ? [["stats"], "key" as const] : [["stats", "token_file"], "value" as const];
    return [error(at, point, token.message, found)];
  }
  if (token.token !== undefined || typeof bind !== "string" || !stats || isLoopback(stats.host)) return [];
  return [
    error(["stats", "bind"], "value", "can be reached from other machines, which needs a token", {
      found: describeValue(bind),
      expected: "a loopback address, or a token in stats.token_file or CONVEY_STATS_TOKEN",
    }),
  ];
}

/** What is wrong with the group of the socket. */
export function groupRules({ root }: View, { group }: HostFacts): Finding[] {
  if (group === undefined || group.ok || !isTable(root.stats)) return [];
  const found = describeValue(root.stats.socket_group);
  return [error(["stats", "socket_group"], "value", group.message, { found })];
}
