/** One call at a time: each waits until those before it have ended, and a bounded number may wait. */
import { ConveyError } from "../native/index.ts";

export class Turns {
  readonly #limit: number;
  #tail: Promise<unknown> = Promise.resolve();
  #taken = 0;
  #asked = 0;

  /** `limit`: calls under way and waiting together. */
  constructor(limit: number = Number.POSITIVE_INFINITY) {
    this.#limit = limit;
  }

  /**
   * Calls `it` when its turn has come.
   *
   * @throws ConveyError `INTERNAL` when too many wait already; what `it` rejects with.
   */
  take<T>(it: () => Promise<T>): Promise<T> {
    if (this.#taken >= this.#limit) {
      return Promise.reject(
        new ConveyError("INTERNAL", `busy: ${this.#limit} such questions are waiting; ask again`),
      );
    }
    this.#taken += 1;
    this.#asked += 1;
    const turn = this.#tail.then(it);
    this.#tail = turn
      .catch(() => undefined)
      .finally(() => {
        this.#taken -= 1;
      });
    return turn;
  }

  /** How often a turn was asked for so far. */
  get asked(): number {
    return this.#asked;
  }

  /** Resolves when every call asked for so far has ended, well or not. */
  async idle(): Promise<void> {
    await this.#tail;
  }
}
