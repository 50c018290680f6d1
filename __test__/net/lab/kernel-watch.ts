/** What the balancer's kernel itself says in a frontend's name, or to a server that it should not have heard of. */
import type { PacketLab } from "./lab.ts";
import { HTTP, SINK } from "./servers.ts";
import { TALK } from "./talk.ts";

const KINDS = ["resets", "others"] as const;
const SETS = KINDS.flatMap((kind) => [`${kind}_ip`, `${kind}_ip6`]);

/**
 * Notes from now on what the balancer's kernel sends from a frontend's port, and its resets to web servers. With
 * `connects`, health checks are connections of the kernel's, from an address that is no frontend's: one that is given up
 * while its SYN is on the way is rightly reset when the answer comes. Otherwise the kernel has no word in them. What is
 * forwarded does not pass there.
 */
export async function watchKernel(lab: PacketLab, { connects }: { connects: boolean }): Promise<void> {
  const sets = SETS.map((name) => {
    const address = name.endsWith("6") ? "ipv6_addr" : "ipv4_addr";
    return `set ${name} {
      type ${address} . inet_service . ${address} . inet_service; flags dynamic, timeout; timeout 1d; size 1024;
    }`;
  });
  const notes = KINDS.map((kind) => {
    const of = (ip: string) =>
      `update @${kind}_${ip} { ${ip} saddr . tcp sport . ${ip} daddr . tcp dport counter }`;
    return `chain ${kind} {\n${of("ip")}\n${of("ip6")}\n}`;
  });
  const ports = `{ ${HTTP}, ${SINK}, ${TALK} }`;
  const sources = connects ? [`ip saddr ${lab.vip()}`, `ip6 saddr ${lab.vip("v6")}`] : [""];
  const toServers = sources.map(
    (source) => `${source} tcp flags & rst == rst tcp dport ${HTTP} tcp sport != ${ports} jump resets`,
  );
  const rules = `table inet watch {
    ${[...sets, ...notes].join("\n")}
    chain out {
      type filter hook output priority 0;
      tcp flags & rst != rst tcp sport ${ports} jump others
      tcp flags & rst == rst tcp sport ${ports} jump resets
      ${toServers.join("\n")}
    }
  }`;
  await lab.sh("balancer", `nft -f - <<'END'\n${rules}\nEND`);
}

/** What was noted: a line for each kind and pair of sockets, with the time left of a day. */
export async function saidByKernel(lab: PacketLab): Promise<string[]> {
  const lists = await Promise.all(SETS.map((set) => lab.sh("balancer", `nft list set inet watch ${set}`)));
  return lists.flatMap((text, at) => {
    const elements = /elements = \{([^}]*)\}/.exec(text)?.[1];
    return elements === undefined ? [] : elements.split(",").map((line) => `${SETS[at]}: ${line.trim()}`);
  });
}
