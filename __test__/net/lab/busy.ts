/** What tells whether flows go on over the end of a balancer and the start of another, and what is left of them. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "vitest";
import type { Product } from "../../support/convey.ts";
import { until } from "../../support/processes.ts";
import type { Scene } from "./scene.ts";
import type { Talker } from "./talk.ts";

/** Conversations that have something to say all the time, so also while no balancer runs. */
export class Busy {
  readonly #talker: Talker;
  #over = false;
  #lost = 0;
  #rounds = 0;
  #work: Promise<void> = Promise.resolve();

  constructor(talker: Talker) {
    this.#talker = talker;
  }

  async open(count: number): Promise<void> {
    expect((await this.#talker.ask({ do: "open", count })).ok).toBe(count);
    this.#work = this.#talk();
    await this.rounds(5);
  }

  async #talk(): Promise<void> {
    for (; !this.#over; this.#rounds += 1) {
      this.#lost += (await this.#talker.ask({ do: "ping" })).failed;
      await sleep(5);
    }
  }

  /** Waits for this many more answers of every conversation. */
  async rounds(count: number): Promise<void> {
    const wanted = this.#rounds + count;
    await until(() => this.#rounds >= wanted, "flows at work", 20_000);
  }

  /** Ends it, after more answers: how many conversations have failed. */
  async lost(): Promise<number> {
    await this.rounds(5);
    this.#over = true;
    await this.#work;
    return this.#lost;
  }
}

/** Connections of the frontend of conversations, as told now. */
export async function current(product: Product): Promise<number | undefined> {
  return (await product.stats()).frontends.talk_v4?.current_connections;
}

/** What is there still: files and folders of pins of any balancer of this scene, and the shared memory of these. */
export async function leftBehind(scene: Scene, balancers: readonly Product[]): Promise<string[]> {
  const folder = await readdir(join(scene.services.folder, "state")).catch(() => []);
  // The sockets of killed ones go with a later start, and the folder's lock with the last file.
  const state = folder.filter((name) => name !== ".lock" && !name.endsWith(".sock"));
  const memory = await readdir("/dev/shm");
  const pids = balancers.map(({ process }) => process.child.pid);
  const shared = memory.filter((name) => pids.some((pid) => name.includes(`_balancer_${pid}_`)));
  const pins = await readdir(join(scene.services.folder, "bpf", "convey")).catch(() => []);
  return [...state, ...shared, ...pins];
}
