/**
 * Servers that are kept out for a while because clients' connections to them fail, whatever checks say. How many of a
 * backend may be out is bounded, so that a fault of the network does not leave clients without any server.
 *
 * An ejection ends by time, when the server is enabled or replaced, or when `eject_after` becomes 0. It is part of the
 * server's record, so that it goes through reloads; the timers follow the records.
 */
import type { BackendConfig } from "../config/schema.ts";
import { isUp, type ServerRecord, type ServerRecords, weightOf } from "./states.ts";

/** See the module's head. */
export class Ejections {
  readonly #timers = new Map<string, NodeJS.Timeout>();
  readonly #over: (key: string) => void;

  /** `over` is called when the time of a server is over. */
  constructor(over: (key: string) => void) {
    this.#over = over;
  }

  /** Has timers for exactly the ejections that stand in `records`. */
  follow(records: ServerRecords): void {
    for (const [key, timer] of this.#timers) {
      if (records.get(key)?.ejection !== undefined) continue;
      clearTimeout(timer);
      this.#timers.delete(key);
    }
    for (const { key, ejection } of records.values()) {
      if (ejection === undefined || this.#timers.has(key)) continue;
      const timer = setTimeout(
        () => {
          this.#timers.delete(key);
          this.#over(key);
        },
        Math.max(0, ejection.until.getTime() - Date.now()),
      );
      timer.unref();
      this.#timers.set(key, timer);
    }
  }

  close(): void {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }
}

/** Why a server may not be ejected now, of those of its backend; undefined when it may. */
export function whyNot(
  record: ServerRecord,
  records: ServerRecords,
  { max_ejected_percent }: Pick<BackendConfig, "max_ejected_percent">,
): string | undefined {
  const all = [...records.values()].filter(({ backend }) => backend === record.backend);
  const out = all.filter(({ ejection }) => ejection !== undefined).length;
  const most = Math.floor((all.length * max_ejected_percent) / 100);
  if (out >= most) return `max_ejected_percent = ${max_ejected_percent} of ${all.length} allows ${most}`;
  const others = all.some((it) => it !== record && isUp(it) && !it.draining && weightOf(it) > 0);
  return others || max_ejected_percent === 100 ? undefined : "no other server takes connections";
}
