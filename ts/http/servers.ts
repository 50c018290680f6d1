/** Servers as the API shows them: out of the statistics, each with its names. */
import type { ServerStats } from "../control/stats.ts";
import { Failure } from "./failure.ts";
import type { AdminSource } from "./source.ts";

export type ShownServer = { backend: string; name: string } & ServerStats;

export function allServers(source: AdminSource): ShownServer[] {
  return Object.entries(source.stats().backends).flatMap(([backend, { server_details }]) =>
    Object.entries(server_details).map(([name, stats]) => ({ backend, name, ...stats })),
  );
}

/** @throws Failure 404 when there is none of that name. */
export function oneServer(source: AdminSource, backend: string, name: string): ShownServer {
  const found = findServer(source, backend, name);
  if (found !== undefined) return found;
  throw new Failure(404, `no server is named ${JSON.stringify(`${backend}/${name}`)}`);
}

export function findServer(source: AdminSource, backend: string, name: string): ShownServer | undefined {
  const { backends } = source.stats();
  const servers = Object.hasOwn(backends, backend) ? backends[backend]?.server_details : undefined;
  const stats = servers !== undefined && Object.hasOwn(servers, name) ? servers[name] : undefined;
  return stats && { backend, name, ...stats };
}
