/** Runs during which the hypervisor gave the machine to somebody else measure that. */

/** Share of the machine's time that may be stolen. */
const MAX_STEAL = 0.01;

/** A run is made this often at most. */
const TRIES = 3;

/** Why a figure is missing when {@link unstolen} gave up. */
export const STOLEN = `time was stolen in each of ${TRIES} runs`;

/** Makes the run again while it was disturbed; undefined when it always was. */
export async function unstolen<T extends { steal_share: number }>(
  run: () => Promise<T>,
): Promise<T | undefined> {
  for (let tries = 0; tries < TRIES; tries++) {
    const seen = await run();
    if (seen.steal_share <= MAX_STEAL) return seen;
  }
  return undefined;
}
