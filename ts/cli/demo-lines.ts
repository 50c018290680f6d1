/** The demo's line a second, from two readings of the counters. */
import type { Stats } from "../control/stats.ts";

/** Remembers the previous reading. */
export class DemoLines {
  #previous: Stats | undefined;

  /** One line, without a newline: rate, open connections, and each server's state and share of the new ones. */
  next(stats: Stats, now = new Date()): string {
    const before = this.#previous;
    this.#previous = stats;
    const servers = Object.entries(stats.backends.demo?.server_details ?? {}).map(([name, server]) => {
      const earlier = before?.backends.demo?.server_details[name]?.total_connections ?? 0;
      return {
        name,
        up: server.up,
        fresh: (server.total_connections ?? 0) - earlier,
        total: server.total_connections ?? 0,
      };
    });
    const fresh = servers.reduce((sum, server) => sum + server.fresh, 0);
    const columns = servers.map(({ name, up, fresh: own, total }) => {
      const share = fresh === 0 ? "  -" : `${Math.round((100 * own) / fresh)}`.padStart(3);
      return `${name} ${up ? "up  " : "DOWN"} ${share} % (${total})`;
    });
    const rate = `${(stats.total_connections ?? 0) - (before?.total_connections ?? 0)}`.padStart(4);
    return `${now.toTimeString().slice(0, 8)}  ${rate} conn/s, ${stats.current_connections ?? 0} open | ${columns.join(" | ")}`;
  }
}
