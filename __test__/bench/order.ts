/** In which order a round visits the peers. */

/**
 * There and back, `middle` once in between: A B C m C B A. Each round begins with another peer than the one before, so
 * that none is always the first on a fresh machine or always next to the middle. `round` counts from 1.
 */
export function visitingOrder<T>(peers: readonly T[], middle: readonly T[], round: number): T[] {
  const first = peers.length === 0 ? 0 : (round - 1) % peers.length;
  const there = [...peers.slice(first), ...peers.slice(0, first)];
  return [...there, ...middle, ...there.toReversed()];
}
