/** The oldest Node that the dependencies run on. */
export const OLDEST_NODE = [20, 19];

/**
 * What keeps Convey from running here, as one line for people, or undefined.
 * Written in old syntax: it must still parse on the versions it turns away.
 */
export function nodeProblem(version, platform) {
  if (platform !== "linux") {
    return (
      "Convey runs on Linux only (this is " +
      platform +
      "); use a Linux machine, virtual machine or container."
    );
  }
  const found = version.split(".").map(Number);
  const old = found[0] < OLDEST_NODE[0] || (found[0] === OLDEST_NODE[0] && found[1] < OLDEST_NODE[1]);
  if (old) {
    return (
      "Node " +
      OLDEST_NODE.join(".") +
      " or newer is needed (this is " +
      version +
      "); install it from https://nodejs.org/."
    );
  }
  return undefined;
}
