/** Ports of this host: those for NAT, and those that are left for its own connections. */
import { error, type Found, notice, ok, setting, warning } from "../finding.ts";
import type { Check, Look } from "../look.ts";
import { parsePorts, portRange } from "../ports.ts";
import { shown, sysctl } from "../sysctl.ts";

const RESERVED = "net.ipv4.ip_local_reserved_ports";
const RANGE = "net.ipv4.ip_local_port_range";
/** As few as that are worth a word. */
const FEW_PORTS = 256;

export const ports: Check = {
  name: "ports",
  modes: ["passthrough"],
  find: (look) => [reserved(look), left(look)],
};

function reserved({ host, config, running }: Look): Found {
  const nat = config.passthrough.port_range.replaceAll(" ", "");
  const there = parsePorts(sysctl(host, RESERVED) ?? "");
  const missing = [...parsePorts(nat)].filter((port) => !there.has(port));
  const evidence = `${shown(host, RESERVED)}; passthrough.port_range is ${nat}`;
  if (missing.length === 0) return ok("the NAT ports are reserved", evidence);
  if (running === undefined || running.elsewhere !== undefined)
    return ok("a start reserves the NAT ports", evidence);
  const merged = [sysctl(host, RESERVED) ?? "", nat].filter(Boolean).join(",");
  return error({
    subject: RESERVED,
    title: `${missing.length} NAT ports of the running balancer are not reserved`,
    evidence,
    consequence:
      "A connection of this host's own, or a health check, can take the port of a client's flow and end it.",
    remedy: setting({ key: RESERVED, value: merged }).remedy,
    fix: [{ key: RESERVED, value: nat }],
  });
}

function left({ host, config }: Look): Found {
  const { from, to } = portRange(sysctl(host, RANGE) ?? "");
  const taken = parsePorts(
    [sysctl(host, RESERVED) ?? "", config.passthrough.port_range].filter(Boolean).join(","),
  );
  let free = 0;
  for (let port = from; port <= to; port++) if (!taken.has(port)) free += 1;
  const told = {
    subject: RANGE,
    evidence: `${shown(host, RANGE, RESERVED)}; passthrough.port_range is ${config.passthrough.port_range}`,
    remedy: setting({ key: RANGE, value: "1024 65535" }).remedy,
  };
  if (free === 0) {
    return error({
      ...told,
      title: "no port is left for this host's own connections",
      consequence: "The start is refused.",
    });
  }
  if (free < FEW_PORTS) {
    return warning({
      ...told,
      title: `${free} ports are left for this host's own connections`,
      consequence: "Health checks and everything else that connects from here run out of ports.",
    });
  }
  return free < 2 * FEW_PORTS
    ? notice({
        ...told,
        title: `${free} ports are left for this host's own connections`,
        consequence: "It is little for a host that connects to others itself.",
      })
    : ok(`${free} ports are left for this host's own connections`, told.evidence);
}
