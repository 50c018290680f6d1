/**
 * Health checks of any number of servers: one timer, a heap of due times, a bounded number of connects at
 * once. A check is a TCP connect within `timeoutMs`; `rise` and `fall` results in a row change a server's
 * state; while results speak against the state, checks come at `fastIntervalMs`.
 *
 * Two things never speak against a server: what went wrong on our side (no file descriptors, no source
 * ports), and a timeout noticed by an event loop that was itself blocked.
 */
import { inTransition, judge, unproven } from "./judge.js";
import { probeTcp } from "./probe.js";
import { Schedule, UNSCHEDULED } from "./schedule.js";

/** Connects open at once over all servers. */
const MAX_IN_FLIGHT = 256;
/** Checks due within this time of each other share one wake-up. */
const QUANTUM_MS = 20;
/** Fraction of the interval by which checks are spread, so that they do not march in step. */
const JITTER = 0.1;
/** A timer this late, or a quarter of the check's timeout if that is more, shows that the loop was blocked. */
const STALL_MS = 50;
/** Verdicts discarded in a row before a timeout counts even on a loop that is always late. */
const MAX_DISCARDED = 3;
/** See the module's head. */
export class HealthMonitor {
  #listener;
  #probe;
  #maxInFlight;
  #checks = new Map();
  #schedule = new Schedule();
  #waiting = [];
  #inFlight = 0;
  #timer;
  #wakeAt = Number.POSITIVE_INFINITY;
  #lastTick = Number.NEGATIVE_INFINITY;
  #suspended = false;
  constructor(listener, options = {}) {
    this.#listener = listener;
    this.#probe = options.probe ?? probeTcp;
    this.#maxInFlight = options.maxInFlight ?? MAX_IN_FLIGHT;
  }
  /**
   * Checks exactly these servers from now on. New ones are checked at once and count as up until proven
   * down; for those that stay, state and rhythm go on under the new settings.
   */
  setTargets(targets) {
    const now = performance.now();
    const keep = new Set();
    for (const target of targets) {
      keep.add(target.key);
      const old = this.#checks.get(target.key);
      if (old !== undefined && old.target.host === target.host && old.target.port === target.port) {
        const hurried = target.settings.intervalMs < old.target.settings.intervalMs;
        old.target = target;
        if (hurried && old.cancel === undefined && !old.queued) this.#plan(old, now);
        continue;
      }
      if (old !== undefined) this.#forget(old);
      const check = newCheck(target);
      this.#checks.set(target.key, check);
      this.#schedule.set(check, now);
    }
    for (const [key, check] of this.#checks) {
      if (!keep.has(key)) this.#forget(check);
    }
    this.#pump();
    this.#arm();
  }
  /** Whether the server is held for up; true for one that is not checked. */
  isUp(key) {
    return this.#checks.get(key)?.health.up ?? true;
  }
  /** The latest finished check, if there was one. */
  lastCheck(key) {
    return this.#checks.get(key)?.last;
  }
  /**
   * Takes a failed connect of the data plane for a failed check and checks at once. Of a burst, the first
   * in every fast interval counts.
   */
  passiveFailure(key, cause) {
    const check = this.#checks.get(key);
    // A server that is down gets no connections; what arrives late says nothing new.
    if (check === undefined || !check.health.up) return;
    const now = performance.now();
    if (now - check.passiveAt < check.target.settings.fastIntervalMs) return;
    check.passiveAt = now;
    this.#judge(check, { at: new Date(), ok: false, durationMs: 0, cause });
    if (check.cancel === undefined && !check.queued) {
      this.#schedule.set(check, now);
      this.#arm();
    }
  }
  /** Ends every check; nothing is reported afterwards. */
  close() {
    clearTimeout(this.#timer);
    this.#waiting.length = 0;
    for (const check of this.#checks.values()) this.#forget(check);
  }
  #forget(check) {
    check.removed = true;
    this.#schedule.remove(check);
    if (check.cancel !== undefined) {
      check.cancel();
      check.cancel = undefined;
      this.#inFlight -= 1;
    }
    if (this.#checks.get(check.target.key) === check) this.#checks.delete(check.target.key);
  }
  #arm() {
    const first = this.#schedule.first;
    if (first === undefined) {
      clearTimeout(this.#timer);
      this.#wakeAt = Number.POSITIVE_INFINITY;
      return;
    }
    const wakeAt = Math.max(first.due, this.#lastTick + QUANTUM_MS);
    if (wakeAt >= this.#wakeAt) return;
    clearTimeout(this.#timer);
    this.#wakeAt = wakeAt;
    this.#timer = setTimeout(this.#tick, Math.max(0, wakeAt - performance.now()));
    this.#timer.unref();
  }
  #tick = () => {
    const now = performance.now();
    const lateMs = now - this.#wakeAt;
    this.#wakeAt = Number.POSITIVE_INFINITY;
    this.#lastTick = now;
    const expired = [];
    for (;;) {
      const check = this.#schedule.first;
      // Node's timers may fire up to a millisecond early.
      if (check === undefined || check.due > now + 1) break;
      this.#schedule.remove(check);
      if (check.cancel === undefined) this.#begin(check, now);
      else expired.push(check);
    }
    // A connect that stood before its time was up may be waiting behind this timer in the same turn of the
    // loop: sockets are heard first.
    if (expired.length > 0) setImmediate(this.#expire, expired, lateMs).unref();
    this.#arm();
  };
  #expire = (checks, lateMs) => {
    for (const check of checks) {
      if (check.cancel === undefined || check.position !== UNSCHEDULED) continue;
      check.cancel();
      const { timeoutMs } = check.target.settings;
      const stalled = lateMs > Math.max(STALL_MS, timeoutMs / 4) && check.discarded < MAX_DISCARDED;
      if (stalled) {
        check.discarded += 1;
        this.#end(check);
        this.#schedule.set(check, performance.now());
      } else {
        this.#finish(check, { kind: "failed", cause: `no answer within ${timeoutMs} ms` });
      }
    }
    this.#arm();
  };
  #begin(check, now) {
    if (this.#inFlight >= this.#maxInFlight) {
      check.queued = true;
      this.#waiting.push(check);
      return;
    }
    const { host, port, settings } = check.target;
    this.#inFlight += 1;
    check.startedAt = now;
    check.cancel = this.#probe(host, port, (outcome) => {
      if (check.cancel !== undefined) this.#finish(check, outcome);
    });
    this.#schedule.set(check, now + settings.timeoutMs);
  }
  /** The connect is over, whatever came of it. */
  #end(check) {
    check.cancel = undefined;
    this.#inFlight -= 1;
    this.#schedule.remove(check);
    this.#pump();
  }
  #pump() {
    while (this.#inFlight < this.#maxInFlight) {
      const next = this.#waiting.shift();
      if (next === undefined) return;
      next.queued = false;
      if (!next.removed) this.#begin(next, performance.now());
    }
  }
  #finish(check, outcome) {
    const now = performance.now();
    const durationMs = now - check.startedAt;
    this.#end(check);
    if (outcome.kind === "local") {
      if (!this.#suspended) this.#listener.onSuspended(outcome.cause);
      this.#suspended = true;
    } else {
      this.#suspended = false;
      check.discarded = 0;
      const ok = outcome.kind === "ok";
      const cause = outcome.kind === "ok" ? "connected" : outcome.cause;
      this.#judge(check, { at: new Date(), ok, durationMs, cause });
    }
    // The listener may have removed the server.
    if (!check.removed) this.#plan(check, now);
    this.#arm();
  }
  #judge(check, result) {
    check.last = result;
    const { settings, key } = check.target;
    if (!judge(check.health, result.ok, settings)) return;
    const needed = result.ok ? settings.rise : settings.fall;
    this.#listener.onTransition(key, result.ok, describe(result, needed));
  }
  #plan(check, now) {
    const { intervalMs, fastIntervalMs } = check.target.settings;
    const base = inTransition(check.health) ? Math.min(fastIntervalMs, intervalMs) : intervalMs;
    // All first checks run at once; a random share of the first interval tells the second ones apart.
    const spread = check.spread ? 1 + JITTER * (2 * Math.random() - 1) : 1 - Math.random() / 2;
    check.spread = true;
    this.#schedule.set(check, now + base * spread);
  }
}
function newCheck(target) {
  return {
    target,
    health: unproven(),
    last: undefined,
    cancel: undefined,
    queued: false,
    removed: false,
    startedAt: 0,
    discarded: 0,
    spread: false,
    passiveAt: Number.NEGATIVE_INFINITY,
    due: 0,
    position: UNSCHEDULED,
  };
}
function describe(result, needed) {
  if (needed === 1) return result.ok ? "check succeeded" : `check failed: ${result.cause}`;
  return result.ok
    ? `${needed} checks in a row succeeded`
    : `${needed} checks in a row failed, last: ${result.cause}`;
}
