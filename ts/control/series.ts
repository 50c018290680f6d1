/** The latest values of something measured at a fixed step: a ring that never grows. */

/** `length` values, the oldest overwritten. What was not counted is null. */
export class Series {
  readonly #values: Float32Array | Float64Array;
  #next = 0;
  #count = 0;

  constructor(values: Float32Array | Float64Array) {
    this.#values = values.fill(Number.NaN);
  }

  /** Adds `value`, `times` times: a step that was missed is filled with what came after it. */
  push(value: number | undefined, times = 1): void {
    const length = this.#values.length;
    for (let n = Math.min(times, length); n > 0; n--) {
      this.#values[this.#next] = value ?? Number.NaN;
      this.#next = (this.#next + 1) % length;
      this.#count = Math.min(this.#count + 1, length);
    }
  }

  /** What was pushed, oldest first, rounded for the wire. */
  toArray(): (number | null)[] {
    const { length } = this.#values;
    const first = this.#next - this.#count + length;
    return Array.from({ length: this.#count }, (_, i) => {
      const value = this.#values[(first + i) % length] as number;
      return Number.isNaN(value) ? null : rounded(value);
    });
  }

  /** The largest of its values; 0 when there is none. */
  max(): number {
    let most = 0;
    for (const value of this.#values) if (value > most) most = value;
    return most;
  }
}

/** Rates need no more than a tenth. */
export const rounded = (value: number): number =>
  value < 1000 ? Math.round(value * 10) / 10 : Math.round(value);
