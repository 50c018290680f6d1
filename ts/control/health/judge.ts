/** Rise and fall: when results of checks change what we hold a server for. Pure. */

/** What is believed of a server, and how many results in a row spoke against it. */
export type Health = { up: boolean; streak: number };

/** Results in a row that bring a server up (`rise`) or down (`fall`); both at least 1. */
export type Thresholds = { rise: number; fall: number };

/** A server counts as up until proven down. */
export const unproven = (): Health => ({ up: true, streak: 0 });

/** Takes one result into account and tells whether the server changed state. */
export function judge(health: Health, ok: boolean, thresholds: Thresholds): boolean {
  if (ok === health.up) {
    health.streak = 0;
    return false;
  }
  health.streak += 1;
  if (health.streak < (ok ? thresholds.rise : thresholds.fall)) return false;
  health.up = ok;
  health.streak = 0;
  return true;
}

/** Whether the last result spoke against the state, so that the next check should come soon. */
export const inTransition = (health: Health): boolean => health.streak > 0;
