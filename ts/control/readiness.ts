/** Whether new traffic should be sent to this balancer. */
import { backendsOf } from "../config/hello-routes.ts";
import type { Config } from "../config/schema.ts";
import { takesConnections } from "./slow-start.ts";
import type { ServerRecords } from "./states.ts";

/** The body of `/readyz`, but for its status. */
export type Readiness = {
  ready: boolean;
  /** Why not, for people; "" when ready. */
  reason: string;
  /** Frontend → whether it has a server that would be given a connection. */
  frontends: Record<string, boolean>;
};

/**
 * Ready: not closing, and every frontend has a server that would be given a connection. One that routes by ClientHello
 * is ready while any of its backends has one: one name out of many must not take all the others out of service.
 */
export function readiness(config: Config, records: ServerRecords, draining: boolean): Readiness {
  const serving = new Set([...records.values()].filter(takesConnections).map(({ backend }) => backend));
  const frontends = Object.entries(config.frontends).map(
    ([name, frontend]) =>
      [name, !draining && backendsOf(frontend).some((backend) => serving.has(backend))] as const,
  );
  const without = frontends.filter(([, ready]) => !ready).map(([name]) => name);
  const reason = draining
    ? "draining"
    : without.length > 0
      ? `no server takes connections for ${without.length === 1 ? "frontend" : "the frontends"} ${without.join(", ")}`
      : "";
  return { ready: reason === "", reason, frontends: Object.fromEntries(frontends) };
}
