/**
 * What moves packets in the packet modes. Every test file of this folder runs once for each engine that is in this
 * version, as a vitest project `net:<engine>` with CONVEY_ENGINE set: a new engine gets the whole suite when its
 * `without` goes.
 */
export const ENGINES: readonly { name: string; without?: string }[] = [
  { name: "af_packet" },
  { name: "tc" },
  { name: "xdp" },
  { name: "af_xdp" },
];

/** Whether the kernel never sees what the engine forwards, rather than being kept from answering it. */
export function takesFramesAway(): boolean {
  return engine() !== "af_packet";
}

/** Whether a program in the kernel forwards, so that there is no guard. */
export function isInKernel(): boolean {
  return ["tc", "xdp"].includes(engine());
}

/** Whether its frames come by XDP, which sees no checksum state and, on a veth, needs a program at the other end. */
export function isXdp(): boolean {
  return ["xdp", "af_xdp"].includes(engine());
}

/** The engine that the running tests are for. */
export function engine(): string {
  return process.env.CONVEY_ENGINE ?? "af_packet";
}

/** Whether it forwards in the kernel, also while its process is dead. */
export function inKernel(): boolean {
  return engine() === "tc" || engine() === "xdp";
}
