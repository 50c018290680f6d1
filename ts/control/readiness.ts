/** Whether new traffic should be sent to this balancer. */
import type { Config } from "../config/schema.ts";
import type { ServerRecord, ServerRecords } from "./states.ts";
import { isUp, weightOf } from "./states.ts";

/** The body of `/readyz`, but for its status. */
export type Readiness = {
  ready: boolean;
  /** Why not, for people; "" when ready. */
  reason: string;
  /** Frontend → whether it has a server that would be given a connection. */
  frontends: Record<string, boolean>;
};

/** Ready: not closing, and every frontend has a server that would be given a connection. */
export function readiness(config: Config, records: ServerRecords, draining: boolean): Readiness {
  const serving = new Set([...records.values()].filter(takesConnections).map(({ backend }) => backend));
  const frontends = Object.entries(config.frontends).map(
    ([name, { backend }]) => [name, !draining && serving.has(backend)] as const,
  );
  const without = frontends.filter(([, ready]) => !ready).map(([name]) => name);
  const reason = draining
    ? "draining"
    : without.length > 0
      ? `no server takes connections for ${without.length === 1 ? "frontend" : "the frontends"} ${without.join(", ")}`
      : "";
  return { ready: reason === "", reason, frontends: Object.fromEntries(frontends) };
}

const takesConnections = (record: ServerRecord): boolean =>
  isUp(record) && !record.draining && weightOf(record) > 0;
