/** Rise and fall: when results of checks change what we hold a server for. Pure. */
/** A server counts as up until proven down. */
export const unproven = () => ({ up: true, streak: 0 });
/** Takes one result into account and tells whether the server changed state. */
export function judge(health, ok, thresholds) {
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
export const inTransition = (health) => health.streak > 0;
