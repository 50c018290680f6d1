import { goOn } from "./interruption.ts";

/**
 * Makes a visit of round `n`. In the first round an error ends the bench, as something is set up wrongly; later the
 * visit counts as lost, with the error's first line as its reason, and the rounds before keep their worth.
 */
export async function attempt<V>(
  n: number,
  visit: () => Promise<V>,
  lost: (missing: string[]) => V,
): Promise<V> {
  try {
    return await visit();
  } catch (error) {
    goOn();
    if (n === 1) throw error;
    console.error(error);
    return lost([`every figure: ${(error as Error).message.split("\n")[0]}`]);
  }
}
