/** Tells on stderr how long a bench will still take, once a round is over. */
export class Progress {
  readonly #rounds: number;
  readonly #startedAt = performance.now();

  constructor(rounds: number) {
    this.#rounds = rounds;
  }

  /** Round `n`, from 1, has ended. */
  ended(n: number): void {
    const seconds = (performance.now() - this.#startedAt) / 1000;
    const left = (seconds / n) * (this.#rounds - n);
    console.error(
      `round ${n} of ${this.#rounds} done after ${seconds.toFixed(0)} s, about ${left.toFixed(0)} s left`,
    );
  }
}
