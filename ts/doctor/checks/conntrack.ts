/** The kernel's own connection tracking, whose full table drops packets. */
import { ok, setting, warning } from "../finding.ts";
import type { Check } from "../look.ts";
import { shown, sysctl } from "../sysctl.ts";

const COUNT = "net.netfilter.nf_conntrack_count";
const MAX = "net.netfilter.nf_conntrack_max";
const MUCH = 0.8;

export const conntrack: Check = {
  name: "conntrack",
  find({ host, config }) {
    const count = sysctl(host, COUNT);
    const max = Number(sysctl(host, MAX) ?? 0);
    if (count === undefined || max === 0) {
      return [ok("the kernel tracks no connections", `${COUNT} is absent: nf_conntrack is not loaded`)];
    }
    const evidence = shown(host, COUNT, MAX);
    if (Number(count) < MUCH * max) return [ok("the kernel's connection table has room", evidence)];
    return [
      warning({
        subject: MAX,
        title: "the kernel's connection table is nearly full",
        evidence,
        consequence:
          config.mode === "proxy"
            ? "When it is full the kernel drops new connections of clients and to servers."
            : "When it is full the kernel drops this host's own new connections, such as health checks; what Convey forwards does not pass it.",
        remedy: setting({ key: MAX, value: String(max * 4) }).remedy,
      }),
    ];
  },
};
