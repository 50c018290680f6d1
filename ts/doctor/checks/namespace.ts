/** Sockets in the state folder reach across network namespaces; interfaces, routes and parameters do not. */
import { error } from "../finding.ts";
import { type Check, PACKET_MODES } from "../look.ts";

export const namespace: Check = {
  name: "namespace",
  modes: PACKET_MODES,
  find({ running, host }) {
    const pid = running?.elsewhere;
    if (pid === undefined) return [];
    return [
      error({
        title: "the running balancer is in another network namespace than this command",
        evidence: `/proc/${pid}/ns/net is ${host.link(`/proc/${pid}/ns/net`)}, /proc/self/ns/net ${host.link("/proc/self/ns/net")}`,
        consequence: "Everything below is about a network that it does not use.",
        remedy: `run this command by: nsenter -t ${pid} -n`,
      }),
    ];
  },
};
