/**
 * `/metrics`: what `/stats` tells, read when it is asked for, and what was counted in between. Nothing is kept a scrape,
 * so a name that left has no series any more, and nothing is shared between balancers of one process.
 *
 * Labels are names of the configuration and words of ours: never an address of a client, so the number of series is
 * that of the configuration.
 */
import type { Config } from "../config/schema.ts";
import type { BalancerEvent } from "../control/events.ts";
import type { Readiness } from "../control/readiness.ts";
import type { Stats } from "../control/stats.ts";
import { type MetricsFormat, render } from "./family.ts";
import { frontendFamilies } from "./frontends.ts";
import { generalFamilies } from "./general.ts";
import { Observed } from "./observed.ts";
import { packetFamilies } from "./packets.ts";
import { processFamilies } from "./process.ts";
import { backendFamilies, serverFamilies } from "./servers.ts";

/** Where the values come from. */
export type MetricsSource = {
  stats: () => Stats;
  readiness: () => Readiness;
  config: () => Config;
};

/** See the module's head. */
export class Metrics {
  readonly #source: MetricsSource;
  readonly #observed = new Observed();

  constructor(source: MetricsSource) {
    this.#source = source;
  }

  note(event: BalancerEvent): void {
    this.#observed.note(event);
    const left = event.type === "servers" || (event.type === "reload" && event.changes.length > 0);
    if (left) this.#observed.keep(this.#source.stats());
  }

  /** A health check of `backend/server` has ended. */
  checked(key: string, result: { ok: boolean; durationMs: number }): void {
    this.#observed.checked(key, result);
  }

  /** All metrics as text, in one of the two formats. */
  async read(format: MetricsFormat): Promise<string> {
    const process = await processFamilies();
    const [stats, readiness, config] = [
      this.#source.stats(),
      this.#source.readiness(),
      this.#source.config(),
    ];
    this.#observed.keep(stats);
    return await render(
      [
        ...generalFamilies(stats, readiness, config, this.#observed),
        ...frontendFamilies(stats, readiness, config),
        ...backendFamilies(stats, config),
        ...serverFamilies(stats, config, this.#observed),
        this.#observed.durations(),
        ...packetFamilies(stats),
        ...process,
      ],
      format,
    );
  }
}
