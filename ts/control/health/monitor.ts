/**
 * Health checks of any number of servers: one timer, a heap of due times, a bounded number of connects at
 * once, of which those that meet silence leave places to the others. A check is what the probe makes of it, within
 * `timeoutMs`; `rise` and `fall` results in a row change a server's state; while results speak against
 * the state, checks come at `fastIntervalMs`.
 *
 * Two things never speak against a server: what went wrong on our side (no file descriptors, no source
 * ports), and a timeout noticed by an event loop that was itself blocked.
 */
import { isDeepStrictEqual } from "node:util";
import type { Ask } from "./ask.ts";
import { askServer } from "./ask-server.ts";
import { type Health, inTransition, judge, unproven } from "./judge.ts";
import { type Laned, Lanes, PROMPT_MS } from "./lanes.ts";
import { checkText, type GiveUp, type Outcome } from "./outcome.ts";
import { Schedule, UNSCHEDULED } from "./schedule.ts";
import type { Endpoint } from "./stream.ts";
import type { VipCheck } from "./vip-check.ts";

/** How a server is checked. */
export type CheckSettings = {
  intervalMs: number;
  /** Between checks of a server that is down; `intervalMs` unless given. */
  downIntervalMs?: number;
  fastIntervalMs: number;
  timeoutMs: number;
  rise: number;
  fall: number;
};

/** A server to check. `key` is unique; a changed address under the same key is a new server. */
export type CheckTarget = {
  key: string;
  /** An IP address, or `unix:path` with port 0, where `at` tells the path. */
  host: string;
  port: number;
  settings: CheckSettings;
  /** Where checks go instead of `host` and `port`: another port, or a socket's path. */
  at?: Endpoint | undefined;
  /** What is asked beyond a connection. */
  ask?: Ask | undefined;
  /** Sent first on every connection of a check, before TLS. */
  first?: Uint8Array | undefined;
  /** Asked for frontends' addresses instead of its own. Such a probe ends by itself when its time is up. */
  vips?: VipCheck;
  /** The address that connects start from; undefined: the kernel's choice. */
  source?: string | undefined;
};

/** The latest finished check of a server. */
export type LastCheck = {
  at: Date;
  ok: boolean;
  durationMs: number;
  cause: string;
  /** What the server said, inert and bounded; absent where it said nothing. */
  answer?: string;
};

/** What the monitor reports, called from its own timers and sockets. */
export type HealthListener = {
  /** A server changed state. */
  onTransition: (key: string, up: boolean, cause: string) => void;
  /**
   * The checks of this server, and maybe of more, cannot be made for a reason on this machine; each reason is
   * said once until every check it held up could be made again.
   */
  onSuspended: (cause: string, key: string) => void;
  /** A check has ended and counts. */
  onChecked?: (key: string, result: LastCheck) => void;
};

/** Starts one check and returns how to give it up; `done` is called later, not while it starts. */
export type ProbeFunction = (target: CheckTarget, done: (outcome: Outcome) => void) => GiveUp;

/** Checks due within this time of each other share one wake-up. */
const QUANTUM_MS = 20;
/** Fraction of the interval by which checks are spread, so that they do not march in step. */
const JITTER = 0.1;
/** A timer this late, or a quarter of the check's timeout if that is more, shows that the loop was blocked. */
const STALL_MS = 50;
/** Verdicts discarded in a row before a timeout counts even on a loop that is always late. */
const MAX_DISCARDED = 3;
/** What a probe that ends by itself gets on top of its time before it counts as lost. */
const GRACE_MS = 500;
/** How often a monitor that is to keep no process alive looks whether it is what does. */
const IDLE_LOOK_MS = 500;

type Check = Laned & {
  target: CheckTarget;
  health: Health;
  last: LastCheck | undefined;
  /** Gives up the connect under way. */
  cancel: GiveUp | undefined;
  removed: boolean;
  /** Why it cannot be made, while it cannot. */
  suspendedFor: string | undefined;
  startedAt: number;
  discarded: number;
  /** Whether it has left the common start. */
  spread: boolean;
  /** When a failure in the data plane last counted. */
  passiveAt: number;
  // Of the schedule: when the check starts or, with a connect under way, when it is slow, then has timed out.
  due: number;
  position: number;
};

/** See the module's head. */
export class HealthMonitor {
  readonly #listener: HealthListener;
  readonly #probe: ProbeFunction;
  readonly #lanes: Lanes<Check>;
  readonly #checks = new Map<string, Check>();
  readonly #schedule = new Schedule<Check>();
  #timer: NodeJS.Timeout | undefined;
  #wakeAt = Number.POSITIVE_INFINITY;
  #lastTick = Number.NEGATIVE_INFINITY;
  /** Cause on this machine → checks it holds up. */
  readonly #suspended = new Map<string, number>();
  #idleLook: NodeJS.Timeout | undefined;

  /** `keepAlive`: a check under way may keep the process alive until it ends. */
  constructor(
    listener: HealthListener,
    options: { probe?: ProbeFunction; maxInFlight?: number; keepAlive?: boolean } = {},
  ) {
    this.#listener = listener;
    this.#probe = options.probe ?? ((target, done) => askServer(target, done));
    this.#lanes = new Lanes(options.maxInFlight);
    if (options.keepAlive !== true) {
      this.#idleLook = setInterval(() => this.#letProcessEnd(), IDLE_LOOK_MS);
      this.#idleLook.unref();
    }
  }

  /**
   * Checks exactly these servers from now on. New ones are checked at once and count as up until proven
   * down; for those that stay, state and rhythm go on under the new settings.
   */
  setTargets(targets: readonly CheckTarget[]): void {
    const now = performance.now();
    const keep = new Set<string>();
    for (const target of targets) {
      keep.add(target.key);
      const old = this.#checks.get(target.key);
      if (old !== undefined && old.target.host === target.host && old.target.port === target.port) {
        const hurried = target.settings.intervalMs < old.target.settings.intervalMs;
        const asksElse = !isDeepStrictEqual(asked(target), asked(old.target));
        old.target = target;
        if (old.cancel !== undefined || old.queued) continue;
        if (asksElse) this.#schedule.set(old, now);
        else if (hurried) this.#plan(old, now);
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
  isUp(key: string): boolean {
    return this.#checks.get(key)?.health.up ?? true;
  }

  /** The latest finished check, if there was one. */
  lastCheck(key: string): LastCheck | undefined {
    return this.#checks.get(key)?.last;
  }

  /**
   * Takes a failed connect of the data plane for a failed check and checks at once. Of a burst, the first
   * in every fast interval counts.
   */
  passiveFailure(key: string, cause: string): void {
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
  close(): void {
    clearTimeout(this.#timer);
    clearInterval(this.#idleLook);
    for (const check of this.#checks.values()) this.#forget(check);
  }

  #forget(check: Check): void {
    check.removed = true;
    this.#schedule.remove(check);
    check.cancel?.();
    check.cancel = undefined;
    this.#lanes.leave(check);
    this.#resume(check);
    if (this.#checks.get(check.target.key) === check) this.#checks.delete(check.target.key);
  }

  #arm(): void {
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

  readonly #tick = (): void => {
    const now = performance.now();
    const lateMs = now - this.#wakeAt;
    this.#wakeAt = Number.POSITIVE_INFINITY;
    this.#lastTick = now;
    const expired: Check[] = [];
    for (;;) {
      const check = this.#schedule.first;
      // Node's timers may fire up to a millisecond early.
      if (check === undefined || check.due > now + 1) break;
      this.#schedule.remove(check);
      if (check.cancel === undefined) this.#begin(check, now);
      else if (check.due + 1 >= deadline(check)) expired.push(check);
      else {
        this.#lanes.slowDown(check);
        this.#schedule.set(check, deadline(check));
      }
    }
    this.#pump();
    // A connect that stood before its time was up may be waiting behind this timer in the same turn of the
    // loop: sockets are heard first. (An unreferenced immediate would wait for the next socket or timer.)
    if (expired.length > 0) setImmediate(this.#expire, expired, lateMs);
    this.#arm();
  };

  readonly #expire = (checks: Check[], lateMs: number): void => {
    for (const check of checks) {
      if (check.cancel === undefined || check.position !== UNSCHEDULED) continue;
      const { timeoutMs } = check.target.settings;
      const late = check.cancel.whenLate?.(timeoutMs) ?? silence(timeoutMs);
      check.cancel();
      const stalled = lateMs > Math.max(STALL_MS, timeoutMs / 4) && check.discarded < MAX_DISCARDED;
      if (stalled) {
        check.discarded += 1;
        this.#end(check);
        this.#schedule.set(check, performance.now());
      } else if (check.target.vips !== undefined) {
        this.#finish(check, { kind: "local", cause: "what sends and hears probes does not answer" });
      } else {
        check.suspect = late.kind === "failed";
        this.#finish(check, late);
      }
    }
    this.#arm();
  };

  #begin(check: Check, now: number): void {
    if (this.#lanes.enter(check)) this.#connect(check, now);
  }

  /** It has a place. */
  #connect(check: Check, now: number): void {
    const { settings } = check.target;
    check.startedAt = now;
    check.cancel = this.#probe(check.target, (outcome) => {
      if (check.cancel === undefined) return;
      check.suspect = outcome.kind === "failed" && outcome.silent === true;
      this.#finish(check, outcome);
    });
    this.#schedule.set(check, now + Math.min(settings.timeoutMs, PROMPT_MS));
  }

  /** The connect is over, whatever came of it. */
  #end(check: Check): void {
    check.cancel = undefined;
    this.#lanes.leave(check);
    this.#schedule.remove(check);
    this.#pump();
  }

  #pump(): void {
    for (let next = this.#lanes.next(); next !== undefined; next = this.#lanes.next()) {
      this.#connect(next, performance.now());
    }
  }

  #finish(check: Check, outcome: Outcome): void {
    const now = performance.now();
    const durationMs = now - check.startedAt;
    this.#end(check);
    if (outcome.kind === "local") {
      this.#suspend(check, outcome.cause);
    } else {
      this.#resume(check);
      check.discarded = 0;
      const ok = outcome.kind === "ok";
      const cause = outcome.cause ?? "connected";
      const answer = outcome.answer === undefined ? {} : { answer: outcome.answer };
      const result = { at: new Date(), ok, durationMs: outcome.durationMs ?? durationMs, cause, ...answer };
      this.#listener.onChecked?.(check.target.key, result);
      this.#judge(check, result);
    }
    // The listener may have removed the server.
    if (!check.removed) this.#plan(check, now);
    this.#arm();
  }

  #suspend(check: Check, cause: string): void {
    if (check.suspendedFor === cause) return;
    this.#resume(check);
    check.suspendedFor = cause;
    const others = this.#suspended.get(cause) ?? 0;
    this.#suspended.set(cause, others + 1);
    if (others === 0) this.#listener.onSuspended(cause, check.target.key);
  }

  #resume(check: Check): void {
    const cause = check.suspendedFor;
    if (cause === undefined) return;
    check.suspendedFor = undefined;
    const left = (this.#suspended.get(cause) ?? 0) - 1;
    if (left > 0) this.#suspended.set(cause, left);
    else this.#suspended.delete(cause);
  }

  #judge(check: Check, result: LastCheck): void {
    check.last = result;
    const { settings, key } = check.target;
    if (!judge(check.health, result.ok, settings)) return;
    const needed = result.ok ? settings.rise : settings.fall;
    this.#listener.onTransition(key, result.ok, describe(result, needed));
  }

  /**
   * A socket can be unreferenced, a connect under way cannot. Where nothing else keeps the loop alive the
   * program has ended but for us: connects are given up, and where that was wrong they come again.
   */
  #letProcessEnd(): void {
    if (this.#lanes.open === 0 || !onlyConnectsKeepAlive()) return;
    const now = performance.now();
    for (const check of this.#checks.values()) {
      const flying = check.cancel !== undefined && now - check.startedAt > IDLE_LOOK_MS / 2;
      if (!flying || check.discarded >= MAX_DISCARDED) continue;
      check.discarded += 1;
      check.cancel?.();
      this.#end(check);
      this.#plan(check, now);
    }
    this.#arm();
  }

  #plan(check: Check, now: number): void {
    const { intervalMs, downIntervalMs = intervalMs, fastIntervalMs } = check.target.settings;
    const usual = check.health.up ? intervalMs : downIntervalMs;
    const base = inTransition(check.health) ? Math.min(fastIntervalMs, usual) : usual;
    // All first checks run at once; a random share of the first interval tells the second ones apart.
    const spread = check.spread ? 1 + JITTER * (2 * Math.random() - 1) : 1 - Math.random() / 2;
    check.spread = true;
    this.#schedule.set(check, now + base * spread);
  }
}

// The standard streams are listed whenever they were used, though they keep nothing alive.
const IDLE_RESOURCES = new Set(["ConnectWrap", "PipeWrap", "TTYWrap"]);

const onlyConnectsKeepAlive = (): boolean =>
  process.getActiveResourcesInfo().every((resource) => IDLE_RESOURCES.has(resource));

const silence = (timeoutMs: number): Outcome => ({
  kind: "failed",
  cause: `no answer within ${timeoutMs} ms`,
  silent: true,
});

const deadline = ({ startedAt, target }: Check): number =>
  startedAt + target.settings.timeoutMs + (target.vips === undefined ? 0 : GRACE_MS);

const asked = ({ ask, at, first, source }: CheckTarget) => ({ ask, at, first, source });

function newCheck(target: CheckTarget): Check {
  return {
    target,
    health: unproven(),
    last: undefined,
    cancel: undefined,
    lane: undefined,
    queued: false,
    suspect: false,
    removed: false,
    suspendedFor: undefined,
    startedAt: 0,
    discarded: 0,
    spread: false,
    passiveAt: Number.NEGATIVE_INFINITY,
    due: 0,
    position: UNSCHEDULED,
  };
}

function describe(result: LastCheck, needed: number): string {
  if (needed === 1) return result.ok ? "check succeeded" : `check failed: ${checkText(result)}`;
  return result.ok
    ? `${needed} checks in a row succeeded`
    : `${needed} checks in a row failed, last: ${checkText(result)}`;
}
