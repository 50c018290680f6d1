/** What frontends, backends and servers have in common. */
import type { CounterStats, Stats } from "../control/stats.ts";
import { counter, type Family, gauge, type Labels, type Sample } from "./family.ts";

/** Bytes by direction; one that cannot be seen has no series. */
export function bytes(
  { return_path_visible }: Stats,
  { bytes_tx, bytes_rx }: { bytes_tx: number; bytes_rx: number },
  of?: Labels,
): Sample[] {
  const shared = of && { of };
  const tx: Sample = { value: bytes_tx, labels: { direction: "tx" }, ...shared };
  if (return_path_visible === false) return [tx];
  return [tx, { value: bytes_rx, labels: { direction: "rx" }, ...shared }];
}

/** A limit for each that has one: 0 is none. */
export const limit = (
  name: string,
  help: string,
  limits: readonly (readonly [most: number, of: Labels | undefined])[],
): Family =>
  gauge(
    name,
    help,
    limits.flatMap(([value, of]) => (value === 0 ? [] : [{ value, ...(of && { of }) }])),
  );

/** Connections and bytes of all of one kind, `what`: "frontend", "backend" or "server". */
export function trafficFamilies(
  what: string,
  stats: Stats,
  members: readonly (readonly [of: Labels, counters: CounterStats])[],
): Family[] {
  const each = (value: (counters: CounterStats) => number | undefined): Sample[] =>
    members.flatMap(([of, counters]) => {
      const found = value(counters);
      return found === undefined ? [] : [{ value: found, of }];
    });
  return [
    counter(
      `convey_${what}_connections_total`,
      `Connections of the ${what}.`,
      each((c) => c.total_connections),
    ),
    gauge(
      `convey_${what}_current_connections`,
      `Connections of the ${what} open now.`,
      each((c) => c.current_connections),
    ),
    counter(
      `convey_${what}_bytes_total`,
      `Bytes of the ${what}: tx from clients to servers, rx from servers to clients.`,
      members.flatMap(([of, counters]) => bytes(stats, counters, of)),
    ),
  ];
}
