/** Whether the flow tables that the configuration asks for fit into memory, and into the limit of the control group. */
import { availableCpus } from "../../config/cpus.ts";
import { error, type Found, ok, warning } from "../finding.ts";
import type { Host } from "../host.ts";
import { type Check, engineTaken, frontends, type Look, PACKET_MODES, servers } from "../look.ts";
import { parsePorts } from "../ports.ts";

const BYTES_V4 = 66;
const BYTES_V6 = 132;
const BYTES_NAT_PORT = 9;
const MIB = 1024 * 1024;
/** A worker's receive ring and what else it has. */
const BYTES_WORKER = 17 * MIB;
/** Of what is there: beyond it little is left for everything else. */
const MUCH = 0.7;

export const memory: Check = {
  name: "memory",
  modes: PACKET_MODES,
  find(look) {
    if (look.running !== undefined) return [ok("the flow tables are in memory", "the balancer runs")];
    const { bytes, text } = needed(look);
    const [least] = [available(look.host), ...groups(look.host)].sort((a, b) => a.bytes - b.bytes);
    if (least === undefined || !Number.isFinite(least.bytes)) return [];
    const evidence = `${text}: ${mib(bytes)}; ${least.text}`;
    if (bytes <= MUCH * least.bytes) return [ok("the flow tables fit into memory", evidence)];
    return [judged(look, bytes, least.bytes, evidence)];
  },
};

function judged({ config }: Look, bytes: number, there: number, evidence: string): Found {
  const capacity = config.passthrough.connection_tracker_capacity;
  const fits = Math.max(1, 2 ** Math.floor(Math.log2(Math.max(1, (capacity * MUCH * there) / bytes))));
  const told = { evidence, remedy: `passthrough.connection_tracker_capacity = ${fits}` };
  if (bytes <= there) {
    return warning({
      ...told,
      title: "the flow tables leave little memory",
      consequence: "When other programs need theirs the kernel may end the balancer.",
    });
  }
  return error({
    ...told,
    title: "the flow tables do not fit into memory",
    consequence: "The start fails, or the kernel ends the balancer when the tables fill.",
  });
}

function needed(look: Look): { bytes: number; text: string } {
  const { passthrough, mode } = look.config;
  const families = new Set(frontends(look).map(({ listen }) => listen.family));
  const flow = (families.has(4) ? BYTES_V4 : 0) + (families.has(6) ? BYTES_V6 : 0);
  const capacity = passthrough.connection_tracker_capacity;
  const pairs = servers(look).length * Math.max(1, passthrough.nat_addresses.length);
  const nat =
    mode === "passthrough"
      ? parsePorts(passthrough.port_range.replaceAll(" ", "")).size * pairs * BYTES_NAT_PORT
      : 0;
  const userSpace = engineTaken(look) === "af_packet";
  const workers = userSpace ? (passthrough.workers || availableCpus()) * BYTES_WORKER : 0;
  return {
    bytes: flow * capacity + nat + workers,
    text: `connection_tracker_capacity ${capacity} at ${flow} bytes a flow, with NAT ports and rings`,
  };
}

interface Room {
  bytes: number;
  text: string;
}

function available(host: Host): Room {
  const kb = Number(/^MemAvailable:\s+(\d+) kB/m.exec(host.read("/proc/meminfo") ?? "")?.[1] ?? Number.NaN);
  const bytes = Number.isNaN(kb) ? Number.POSITIVE_INFINITY : kb * 1024;
  return { bytes, text: `/proc/meminfo: MemAvailable ${mib(bytes)}` };
}

/** What the control groups of this process leave, from its own up to the root; version 2, then version 1. */
function groups(host: Host): Room[] {
  const groupsOf = host.read("/proc/self/cgroup") ?? "";
  const second = /^0::(.*)$/m.exec(groupsOf)?.[1] ?? "";
  const first = /^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(.*)$/m.exec(groupsOf)?.[1] ?? "";
  return [
    ...upwards("/sys/fs/cgroup", second).flatMap((folder) =>
      room(host, folder, "memory.max", "memory.current"),
    ),
    ...upwards("/sys/fs/cgroup/memory", first).flatMap((folder) =>
      room(host, folder, "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ),
  ];
}

/** The folders of a group and of those around it. A container sees its own as the root. */
function upwards(root: string, path: string): string[] {
  const parts = path.split("/").filter(Boolean);
  return [...parts.map((_, i) => `${root}/${parts.slice(0, parts.length - i).join("/")}`), root];
}

function room(host: Host, folder: string, limitFile: string, usedFile: string): Room[] {
  const limit = Number(host.read(`${folder}/${limitFile}`)?.trim() ?? "max");
  // Without a limit version 2 says "max", version 1 a number above all memory.
  if (!Number.isFinite(limit) || limit > 2 ** 60) return [];
  const used = Number(host.read(`${folder}/${usedFile}`)?.trim() ?? 0);
  const bytes = Math.max(0, limit - used);
  return [{ bytes, text: `${folder}/${limitFile} leaves ${mib(bytes)}` }];
}

function mib(bytes: number): string {
  return `${Math.round(bytes / MIB)} MiB`;
}
