/** Paired ratios: what two peers did in the same round, compared; and what a peer did against itself. */
import type { Visit } from "./figures.ts";

/** Visits of one round, in the order they were made: there and back. */
export type Round = readonly Visit[];

/** The figures of one visit, whatever they are called. */
export interface Figures<F extends string> {
  peer: string;
  figures: Partial<Record<F, number>>;
}

type Rounds<F extends string> = readonly (readonly Figures<F>[])[];

export interface Spread {
  median: number;
  min: number;
  max: number;
  /** How many rounds went in. */
  n: number;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const upper = sorted[sorted.length >> 1] ?? Number.NaN;
  if (sorted.length % 2 === 1) return upper;
  return (upper + (sorted[(sorted.length >> 1) - 1] ?? Number.NaN)) / 2;
}

export function spread(values: readonly number[]): Spread | undefined {
  if (values.length === 0) return undefined;
  return { median: median(values), min: Math.min(...values), max: Math.max(...values), n: values.length };
}

function figuresOf<F extends string>(round: readonly Figures<F>[], peer: string, figure: F): number[] {
  return round.filter((v) => v.peer === peer).flatMap((v) => v.figures[figure] ?? []);
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** The figure of one peer over all rounds. */
export function absolute<F extends string>(rounds: Rounds<F>, peer: string, figure: F): Spread | undefined {
  return spread(
    rounds.flatMap((round) => {
      const values = figuresOf(round, peer, figure);
      return values.length > 0 ? [mean(values)] : [];
    }),
  );
}

/** `peer` ÷ `other`, a ratio a round. Rounds in which either has no figure are left out. */
export function paired<F extends string>(
  rounds: Rounds<F>,
  peer: string,
  other: string,
  figure: F,
): Spread | undefined {
  return spread(
    rounds.flatMap((round) => {
      const ours = figuresOf(round, peer, figure);
      const theirs = figuresOf(round, other, figure);
      return ours.length > 0 && theirs.length > 0 ? [mean(ours) / mean(theirs)] : [];
    }),
  );
}

/** The A/A control: the way out ÷ the way back of the same peer, over every peer and round. */
export function control<F extends string>(rounds: Rounds<F>, names: readonly string[], figure: F): number[] {
  return rounds.flatMap((round) =>
    names.flatMap((name) => {
      const [out, back] = figuresOf(round, name, figure);
      // Nothing over nothing tells nothing.
      return out !== undefined && back !== undefined && back !== 0 ? [out / back] : [];
    }),
  );
}

/**
 * How far a peer is from itself, as a share: the median distance of the control from 1, which one disturbed
 * visit does not move. A difference counts from twice this on.
 */
export function noise(control: readonly number[]): number {
  return control.length === 0
    ? Number.POSITIVE_INFINITY
    : median(control.map((ratio) => Math.abs(ratio - 1)));
}

/** Fewer rounds say nothing about how far they lie apart. */
export const LEAST_ROUNDS = 5;

/** What a ratio is worth. */
export type Decision = "decided" | "within noise" | "too few rounds";

/** Decided: at least {@link LEAST_ROUNDS} rounds, and from 1 (or from `bound`) further than twice the control's distance. */
export function decide(ratio: Spread, distance: number, bound = 1): Decision {
  if (ratio.n < LEAST_ROUNDS) return "too few rounds";
  return Math.abs(ratio.median - bound) >= 2 * distance * ratio.median ? "decided" : "within noise";
}
