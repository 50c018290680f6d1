/** What an XDP engine wants of the other end of its veth. */
import { isXdp } from "../engines.ts";

/** An XDP program that leaves every frame to the kernel. */
const PASS = new URL("../../../crates/convey-bpf/objects/pass.o", import.meta.url).pathname;

/** Further tools that a lab takes. */
export const XDP_TOOLS: readonly string[] = isXdp() ? ["ethtool"] : [];

/**
 * Shell lines for the other end of a balancer's veth: checksums that are filled in, and a program, without which frames
 * sent by XDP are dropped in silence. None for engines that do not need them.
 */
export function otherEnd(namespace: string, device: string, isWanted = isXdp()): string[] {
  if (!isWanted) return [];
  return [
    `ip netns exec ${namespace} ethtool -K ${device} tx off >/dev/null`,
    `ip -n ${namespace} link set dev ${device} xdp obj ${PASS} sec xdp`,
  ];
}
