/** The links that packets come by: driver, and what it has of XDP. */
import { type Found, notice, ok } from "../finding.ts";
import { type Check, PACKET_MODES } from "../look.ts";

/** Above it a program without fragments does not fit a driver's page. */
const MAX_XDP_MTU = 3498;

export const drivers: Check = {
  name: "drivers",
  modes: PACKET_MODES,
  find: ({ report }) =>
    (report?.links ?? []).map(({ name, kind, driver, mtu, nativeXdp }): Found => {
      const what = driver || kind || "unknown driver";
      const xdp = nativeXdp === undefined ? "not told (before Linux 6.3)" : nativeXdp ? "yes" : "no";
      const evidence = `${name}: ${what}, MTU ${mtu}, native XDP: ${xdp} (netlink)`;
      const isCard = kind === "" && driver !== "virtio_net";
      if (isCard && nativeXdp && mtu > MAX_XDP_MTU) {
        return notice({
          subject: name,
          title: `the MTU of ${name} keeps XDP away`,
          evidence,
          consequence: `Engine "auto" takes tc, whose packets cost more.`,
          remedy: `ip link set dev ${name} mtu ${MAX_XDP_MTU}`,
        });
      }
      return ok(`${name}: ${what}`, evidence, name);
    }),
};
