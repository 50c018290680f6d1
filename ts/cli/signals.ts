/** Signals that end the program. */

/** Resolves with the first SIGINT or SIGTERM; signals that follow do nothing more. */
export function untilSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const name of ["SIGINT", "SIGTERM"] as const) process.on(name, () => resolve(name));
  });
}
