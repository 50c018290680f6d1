/** Limits that a proxy meets: descriptors, and the queues before accept. */
import { error, type Found, ok, setting, warning } from "../finding.ts";
import type { Check, Look } from "../look.ts";
import { shown, sysctl } from "../sysctl.ts";

const BACKLOG = "net.core.somaxconn";
const SYN_BACKLOG = "net.ipv4.tcp_max_syn_backlog";
const COOKIES = "net.ipv4.tcp_syncookies";
/** What Linux has by itself since 5.4, and what convey asks for. */
const ENOUGH_BACKLOG = 4096;
/** Linux's own on the smallest machines. */
const ENOUGH_SYN = 128;

export const descriptors: Check = {
  name: "descriptors",
  modes: ["proxy"],
  find({ host, report, running, config }) {
    const file = running?.pid === undefined ? "/proc/self/limits" : `/proc/${running.pid}/limits`;
    const limit = /^Max open files\s+(\S+)\s+(\S+)/m.exec(host.read(file) ?? "");
    const evidence = `${file}: Max open files ${limit?.[1] ?? "unknown"}, hard limit ${limit?.[2] ?? "unknown"}`;
    const problem = report?.problems.find(({ kind }) => kind.endsWith("descriptors"));
    if (problem === undefined) return [ok("file descriptors suffice", evidence)];
    const told = {
      title: problem.fact.split(/[:;] /)[0] ?? problem.fact,
      evidence: `${evidence}; ${problem.fact}`,
      consequence: problem.consequence,
      remedy: `ulimit -n ${enough(config.limits.max_connections)}`,
    };
    return [problem.kind === "no_descriptors" ? error(told) : warning(told)];
  },
};

/** Two a connection and some for everything else; where connections have no limit, what servers usually get. */
function enough(connections: number): number {
  return connections === 0 ? 65536 : 2 ** Math.ceil(Math.log2(2 * connections + 1024));
}

export const backlog: Check = {
  name: "backlog",
  modes: ["proxy"],
  find: ({ host }) => [
    low(
      { host },
      BACKLOG,
      ENOUGH_BACKLOG,
      "In a burst connections beyond it are dropped, and clients try again after a second.",
    ),
    low(
      { host },
      SYN_BACKLOG,
      ENOUGH_SYN,
      "In a burst handshakes beyond it need SYN cookies, which lose TCP options, or are dropped.",
    ),
    ...cookies({ host }),
  ],
};

function low({ host }: Pick<Look, "host">, key: string, enough: number, consequence: string): Found {
  const value = Number(sysctl(host, key) ?? enough);
  if (value >= enough) return ok(`${key} is large enough`, shown(host, key), key);
  return warning({
    subject: key,
    title: `${key} is small`,
    evidence: shown(host, key),
    consequence,
    ...setting({ key, value: String(ENOUGH_BACKLOG) }),
  });
}

function cookies({ host }: Pick<Look, "host">): Found[] {
  if (sysctl(host, COOKIES) !== "0") return [];
  return [
    warning({
      subject: COOKIES,
      title: "SYN cookies are off",
      evidence: shown(host, COOKIES),
      consequence: "A SYN flood keeps clients out.",
      ...setting({ key: COOKIES, value: "1" }),
    }),
  ];
}
