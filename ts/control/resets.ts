/**
 * Resets the connections of servers that went down, where `on_down` says so: by what ends flows at an operator's word,
 * so that the two ends see the same (see `flows.ts`).
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { BackendConfig } from "../config/schema.ts";
import type { Dataplane } from "../native/index.ts";
import type { Reporter } from "./narrate.ts";
import type { ServerRecord } from "./states.ts";

/** See the module's head. */
export class Resets {
  readonly #dataplane: Dataplane;
  readonly #reporter: Reporter;
  /** One after another: each holds a thread of Node's pool. */
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;

  constructor(dataplane: Dataplane, reporter: Reporter) {
    this.#dataplane = dataplane;
    this.#reporter = reporter;
  }

  close(): void {
    this.#closed = true;
  }

  /** `record` went down; `now` is what is known of it later. */
  begin(
    record: ServerRecord,
    { connect_timeout_ms }: BackendConfig,
    now: () => ServerRecord | undefined,
  ): void {
    const { backend, server, addr } = record;
    const isStillDown = (): boolean => {
      const it = now();
      return !this.#closed && it !== undefined && !it.up && it.addr === addr;
    };
    void this.#reset(backend, server, isStillDown);
    // A connect that was under way has ended by then.
    void sleep(connect_timeout_ms, undefined, { ref: false }).then(() =>
      this.#reset(backend, server, isStillDown),
    );
  }

  #reset(backend: string, server: string, isStillDown: () => boolean): Promise<void> {
    const turn = this.#last.then(async () => {
      if (!isStillDown()) return;
      const any = { protocol: "", client: "", vip: "", frontend: "", state: "" };
      const killed = await this.#dataplane.killFlows({ ...any, backend, server });
      if (this.#closed || killed === 0) return;
      const name = `${backend}/${server}`;
      if (killed === null) {
        this.#reporter.engine(
          "warning",
          `connections of server ${name} were not reset: a worker did not answer`,
        );
      } else {
        const message = `${killed} ${killed === 1 ? "connection" : "connections"} of server ${name} reset, because it is down`;
        this.#reporter.info({ backend, server, connections: killed }, message);
      }
    });
    this.#last = turn.catch((error: unknown) => {
      if (this.#closed) return;
      const why = error instanceof Error ? error.message : String(error);
      this.#reporter.engine("warning", `connections of server ${backend}/${server} were not reset: ${why}`);
    });
    return turn.catch(() => undefined);
  }
}
