/** Ports towards servers in proxy mode: each closed connection keeps one for a minute. */
import { hostPort } from "../../config/address.ts";
import { type Found, ok, setting, warning } from "../finding.ts";
import { type Check, servers } from "../look.ts";
import { parsePorts, portRange } from "../ports.ts";
import { sockets, TIME_WAIT } from "../sockets.ts";
import { shown, sysctl } from "../sysctl.ts";

const RANGE = "net.ipv4.ip_local_port_range";
const REUSE = "net.ipv4.tcp_tw_reuse";
const RESERVED = "net.ipv4.ip_local_reserved_ports";
/** Of the ports towards one server. */
const MUCH = 0.8;

export const timeWait: Check = {
  name: "time_wait",
  modes: ["proxy"],
  find({ host, ...look }) {
    const { from, to } = portRange(sysctl(host, RANGE) ?? "");
    const reserved = [...parsePorts(sysctl(host, RESERVED) ?? "")].filter(
      (port) => port >= from && port <= to,
    );
    const ports = to - from + 1 - reserved.length;
    const used = new Map<string, { all: number; waiting: number }>();
    for (const { remote, state } of sockets(host, "tcp")) {
      const key = hostPort(remote);
      const at = used.get(key) ?? { all: 0, waiting: 0 };
      used.set(key, { all: at.all + 1, waiting: at.waiting + (state === TIME_WAIT ? 1 : 0) });
    }
    const scarce = servers({ host, ...look }).flatMap(({ key, backend, address }): Found[] => {
      const { all, waiting } = used.get(hostPort(address)) ?? { all: 0, waiting: 0 };
      const { source } = look.config.backends[backend] ?? {};
      // Each client brings ports of its own, each address of a pool, too.
      if (source === "client") return [];
      const addresses = source?.filter((one) => one.includes(":") === address.host.includes(":")).length || 1;
      if (all < MUCH * ports * addresses) return [];
      return [
        warning({
          subject: key,
          title: `ports towards ${key} are running out`,
          evidence: `/proc/net/tcp: ${all} of ${ports * addresses} ports are in use towards ${hostPort(address)}, ${waiting} of them by connections that have ended (TIME_WAIT); ${shown(host, RANGE, REUSE)}`,
          consequence: "New connections to it fail (`ports_exhausted`).",
          ...setting({ key: RANGE, value: "1024 65535" }, { key: REUSE, value: "1" }),
        }),
      ];
    });
    if (scarce.length > 0) return scarce;
    return [ok(`${ports} ports lead to each server`, `/proc/net/tcp; ${shown(host, RANGE)}`)];
  },
};
