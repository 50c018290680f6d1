/**
 * The balancers of this process. One whose handle was garbage-collected would silently stop, so they are held
 * here; process.exit() and an uncaught error skip close(), and the host must be given back all the same.
 */
const living = new Set<{ abandon: () => void }>();

let listening = false;

/** Holds a balancer until `release()`; when the process exits before, it is abandoned. */
export function hold(balancer: { abandon: () => void }): void {
  living.add(balancer);
  if (listening) return;
  listening = true;
  process.on("exit", () => {
    for (const one of living) one.abandon();
  });
}

/** It has closed. */
export function release(balancer: { abandon: () => void }): void {
  living.delete(balancer);
}
