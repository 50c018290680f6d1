/** What is remembered of one server's health: its state with reason and time, latest changes, latest checks. */
import { type ServerRow, type ServerState, STRIP, type StateChange } from "./frame.ts";
import type { LastCheck } from "./health/monitor.ts";
import { checkText } from "./health/outcome.ts";
import type { ServerRecord } from "./states.ts";

/** Changes kept. */
const CHANGES = 8;

export const stateOf = ({ up, draining }: Pick<ServerRecord, "up" | "draining">): ServerState =>
  up ? (draining ? "draining" : "up") : "down";

/** See the module's head. Times are seconds of uptime. */
export class HealthHistory {
  readonly addr: string;
  strip = "";
  check: ServerRow["check"] = null;
  readonly changes: StateChange[];
  #seen: LastCheck | undefined;

  constructor(addr: string, state: ServerState, at: number) {
    this.addr = addr;
    this.changes = [{ at, state, why: state === "up" ? "not checked yet" : "" }];
  }

  get current(): StateChange {
    return this.changes[this.changes.length - 1] as StateChange;
  }

  get draining(): boolean {
    return this.current.state === "draining";
  }

  /** It has changed, or why it is as it is has. */
  note(state: ServerState, why: string, at: number): void {
    const { current } = this;
    if (current.state === state) {
      current.why = why;
      return;
    }
    this.changes.push({ at, state, why });
    if (this.changes.length > CHANGES) this.changes.shift();
  }

  /** Takes what is known now. */
  renew(state: ServerState, last: LastCheck | undefined, at: number): void {
    if (last !== undefined && last !== this.#seen) {
      this.#seen = last;
      this.check = { ok: last.ok, answer: checkText(last), ms: Math.round(last.durationMs * 10) / 10, at };
      this.strip = (this.strip + (last.ok ? "+" : "-")).slice(-STRIP);
      if (last.ok && this.current.why === "not checked yet") this.current.why = "checks succeed";
    }
    // Events tell most changes with their reason; those without one are told here.
    if (state !== this.current.state) this.note(state, state === "up" ? "enabled" : state, at);
  }
}
