/**
 * What happens between two scrapes and stands in no statistics: reloads, checks, changes of state. Plain counts, kept
 * while their server or backend is in service, so that names which come and go cost nothing for ever.
 */
import { serverKey } from "../config/lower.ts";
import type { BalancerEvent, EngineEvent, ReloadEvent } from "../control/events.ts";
import type { Stats } from "../control/stats.ts";
import type { Family, Sample } from "./family.ts";

type Checks = { ok: number; failed: number };
type Transitions = { up: number; down: number };
type Durations = { counts: number[]; sumSeconds: number };

/** Upper bounds of the buckets, in seconds; a check is a TCP connect within 2 s unless configured otherwise. */
const BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

/** See the module's head. */
export class Observed {
  readonly reloads: Record<ReloadEvent["result"], number> = {
    applied: 0,
    unchanged: 0,
    rejected: 0,
    confirmed: 0,
    rolled_back: 0,
  };
  readonly warnings: Record<EngineEvent["kind"], number> = {
    "worker-panicked": 0,
    "accept-backoff": 0,
    "health-check-suspended": 0,
    warning: 0,
  };
  readonly #checks = new Map<string, Checks>();
  readonly #transitions = new Map<string, Transitions>();
  readonly #durations = new Map<string, Durations>();

  note(event: BalancerEvent): void {
    if (event.type === "reload") this.reloads[event.result] += 1;
    else if (event.type === "engine") this.warnings[event.kind] += 1;
    else if (event.type === "server") {
      const key = serverKey(event.backend, event.server);
      const counts = this.transitions(key);
      counts[event.state] += 1;
      this.#transitions.set(key, counts);
    }
  }

  /** A health check of `backend/server` has ended. */
  checked(key: string, { ok, durationMs }: { ok: boolean; durationMs: number }): void {
    const counts = this.checks(key);
    counts[ok ? "ok" : "failed"] += 1;
    this.#checks.set(key, counts);
    const backend = key.slice(0, key.indexOf("/"));
    const durations = this.#durations.get(backend) ?? {
      counts: BUCKETS.map(() => 0).concat(0),
      sumSeconds: 0,
    };
    const seconds = durationMs / 1000;
    const bucket = BUCKETS.findIndex((bound) => seconds <= bound);
    const place = bucket === -1 ? BUCKETS.length : bucket;
    durations.counts[place] = (durations.counts[place] ?? 0) + 1;
    durations.sumSeconds += seconds;
    this.#durations.set(backend, durations);
  }

  checks(key: string): Checks {
    return this.#checks.get(key) ?? { ok: 0, failed: 0 };
  }

  transitions(key: string): Transitions {
    return this.#transitions.get(key) ?? { up: 0, down: 0 };
  }

  /** Forgets what is about names that are not in service any more. */
  keep({ backends }: Stats): void {
    for (const key of new Set([...this.#checks.keys(), ...this.#transitions.keys()])) {
      const [backend = "", server = ""] = key.split("/");
      const servers = Object.hasOwn(backends, backend) ? backends[backend]?.server_details : undefined;
      if (servers !== undefined && Object.hasOwn(servers, server)) continue;
      this.#checks.delete(key);
      this.#transitions.delete(key);
    }
    for (const backend of this.#durations.keys()) {
      if (!Object.hasOwn(backends, backend)) this.#durations.delete(backend);
    }
  }

  /** How long checks took, by backend: by server it would be fifteen series each. */
  durations(): Family {
    return {
      name: "convey_health_check_duration_seconds",
      help: "How long health checks of the backend took, failed ones included.",
      type: "histogram",
      samples: [...this.#durations].flatMap(([backend, durations]) => histogram(backend, durations)),
    };
  }
}

function histogram(backend: string, { counts, sumSeconds }: Durations): Sample[] {
  const of = { backend };
  let total = 0;
  const buckets = counts.map((count, place): Sample => {
    total += count;
    return { suffix: "_bucket", value: total, labels: { le: String(BUCKETS[place] ?? "+Inf") }, of };
  });
  return [...buckets, { suffix: "_sum", value: sumSeconds, of }, { suffix: "_count", value: total, of }];
}
