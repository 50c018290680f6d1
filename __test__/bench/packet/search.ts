/** The highest rate that goes through without loss. */

export interface Range {
  /** Where to begin. */
  guess: number;
  /** How far each step from the guess goes until the answer lies between two rates: a factor above 1. */
  step: number;
  /** Below this nothing is tried. */
  floor: number;
  /** What can be offered at most. */
  ceiling: number;
  /** The search ends when a rate passed and one this much higher, as a share, did not. */
  precision: number;
}

export interface Found {
  rate: number;
  /** The ceiling itself passed: what offers the load was the limit. */
  atCeiling: boolean;
}

/**
 * Asks `passes` for rates until the highest that does is known to the precision; undefined when the floor does not.
 * A rate is refused only when it fails twice: a pause of the machine is no property of what is measured.
 */
export async function highestRate(
  passes: (rate: number) => Promise<boolean>,
  { guess, step, floor, ceiling, precision }: Range,
): Promise<Found | undefined> {
  const holds = async (rate: number) => (await passes(rate)) || (await passes(rate));
  let rate = Math.min(Math.max(guess, floor), ceiling);
  let good: number | undefined;
  let bad: number | undefined;
  while (good === undefined || bad === undefined) {
    if (await holds(rate)) {
      if (rate === ceiling) return { rate, atCeiling: true };
      good = rate;
      rate = Math.min(rate * step, ceiling);
    } else {
      if (rate === floor) return undefined;
      bad = rate;
      rate = Math.max(rate / step, floor);
    }
  }
  while (bad > good * (1 + precision)) {
    const middle = Math.sqrt(good * bad);
    if (await holds(middle)) good = middle;
    else bad = middle;
  }
  return { rate: good, atCeiling: false };
}
