/**
 * Who may connect now. Connects at once are bounded, and a server that does not answer holds its place for the
 * whole timeout: many of those would make every other check wait. So there are two lanes. A check begins in
 * the prompt one; when it has not ended after `PROMPT_MS`, or did not end the last time, it belongs to the slow
 * one, which leaves places to the prompt one whatever waits in it.
 */
import { readFileSync } from "node:fs";

/** A check that has not ended by then holds no prompt place any more, if a slow one is free. */
export const PROMPT_MS = 250;

/** Connects at once in the prompt lane, and places that the slow lane leaves to it. */
const PROMPT = 256;
/** Connects at once in both lanes, at most a quarter of the file descriptors this process may have. */
const MOST = 2048;

/** A check as the lanes see it; the fields belong to them, but for `suspect`. */
export type Laned = {
  /** The place it holds. */
  lane: "prompt" | "slow" | undefined;
  queued: boolean;
  /** Whether its last connect met silence. */
  suspect: boolean;
};

/** See the module's head. */
export class Lanes<T extends Laned> {
  readonly #most: number;
  readonly #mostPrompt: number;
  readonly #mostSlow: number;
  #prompt = 0;
  #slow = 0;
  /** In the prompt lane for want of a place in the slow one. */
  readonly #overdue = new Set<T>();
  readonly #waiting: Record<"prompt" | "slow", Set<T>> = { prompt: new Set(), slow: new Set() };

  constructor(most: number = defaultMost()) {
    this.#most = most;
    this.#mostPrompt = Math.min(PROMPT, most);
    this.#mostSlow = Math.max(1, most - Math.min(PROMPT, Math.floor(most / 2)));
  }

  /** Connects under way. */
  get open(): number {
    return this.#prompt + this.#slow;
  }

  /** Gives it a place; without one it waits until `next()` returns it. */
  enter(check: T): boolean {
    const lane = check.suspect ? "slow" : "prompt";
    if (this.#hasRoom(lane)) {
      this.#take(check, lane);
      return true;
    }
    check.queued = true;
    this.#waiting[lane].add(check);
    return false;
  }

  /** Its connect takes long. */
  slowDown(check: T): void {
    if (check.lane !== "prompt") return;
    this.#overdue.add(check);
    this.#moveOverdue();
  }

  /** It needs no place any more, held or waited for. */
  leave(check: T): void {
    for (const lane of ["prompt", "slow"] as const) this.#waiting[lane].delete(check);
    check.queued = false;
    this.#overdue.delete(check);
    if (check.lane === "prompt") this.#prompt -= 1;
    if (check.lane === "slow") this.#slow -= 1;
    check.lane = undefined;
    this.#moveOverdue();
  }

  /** The next one that waited and now has a place. */
  next(): T | undefined {
    for (const lane of ["prompt", "slow"] as const) {
      const [first] = this.#waiting[lane];
      if (first === undefined || !this.#hasRoom(lane)) continue;
      this.#waiting[lane].delete(first);
      first.queued = false;
      this.#take(first, lane);
      return first;
    }
    return undefined;
  }

  #hasRoom(lane: "prompt" | "slow"): boolean {
    if (this.open >= this.#most) return false;
    return lane === "prompt" ? this.#prompt < this.#mostPrompt : this.#slow < this.#mostSlow;
  }

  #take(check: T, lane: "prompt" | "slow"): void {
    check.lane = lane;
    if (lane === "prompt") this.#prompt += 1;
    else this.#slow += 1;
  }

  #moveOverdue(): void {
    for (const check of this.#overdue) {
      if (this.#slow >= this.#mostSlow) return;
      this.#overdue.delete(check);
      this.#prompt -= 1;
      this.#take(check, "slow");
    }
  }
}

let descriptors: number | undefined;

function defaultMost(): number {
  descriptors ??= descriptorLimit();
  return Math.max(16, Math.min(MOST, Math.floor(descriptors / 4)));
}

function descriptorLimit(): number {
  try {
    const line = /^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"));
    return line === null ? MOST * 4 : Number(line[1]);
  } catch {
    return 1024;
  }
}
