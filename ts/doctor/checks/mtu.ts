/** Whether what comes from clients fits the way to the servers. No mode adds bytes: there is no encapsulation. */
import { type Found, ok, warning } from "../finding.ts";
import { type Check, frontends, type Look, PACKET_MODES, servers } from "../look.ts";
import type { Link } from "../network.ts";

export const mtu: Check = {
  name: "mtu",
  modes: PACKET_MODES,
  async find(look) {
    const links = new Map((await look.network.links()).map((link) => [link.ifname, link]));
    const front = await clientLinks(look, links);
    const [widest] = [...front].sort((a, b) => b.mtu - a.mtu);
    if (widest === undefined) return [];
    const narrow = new Map<string, { mtu: number; servers: string[] }>();
    for (const { key, address } of servers(look)) {
      const route = await look.network.route(address.host);
      const link = links.get(route?.dev ?? "");
      if (link === undefined) continue;
      const taken = Math.min(link.mtu, ...(route?.metrics ?? []).map(({ mtu = link.mtu }) => mtu));
      if (taken >= widest.mtu) continue;
      const at = narrow.get(link.ifname) ?? { mtu: taken, servers: [] };
      at.servers.push(key);
      narrow.set(link.ifname, at);
    }
    const ways = [...narrow].map(([device, at]) => tooNarrow(look, widest, device, at));
    if (ways.length > 0) return ways;
    return [
      ok(
        "the way to every server takes what clients send",
        `ip link: ${widest.ifname} has MTU ${widest.mtu}, links to servers no less; nothing is added to packets`,
      ),
    ];
  },
};

/** Where clients come from: links with a frontend's address, and those of default routes. */
async function clientLinks(look: Look, links: Map<string, Link>): Promise<Link[]> {
  const vips = new Set(frontends(look).map(({ listen }) => listen.host));
  const holders = (await look.network.addresses()).filter(({ address }) => vips.has(address));
  const names = new Set([
    ...holders.map(({ device }) => device),
    ...(await look.network.uplinks(4)),
    ...(await look.network.uplinks(6)),
  ]);
  names.delete("lo");
  return [...names].flatMap((name) => links.get(name) ?? []);
}

function tooNarrow(look: Look, front: Link, device: string, at: { mtu: number; servers: string[] }): Found {
  const quiet =
    look.config.mode === "dsr" ? "; in dsr mode large uploads hang where such errors are filtered" : "";
  return warning({
    subject: device,
    title: `${device} takes smaller packets than ${front.ifname}`,
    evidence: `ip link and route: MTU ${front.mtu} on ${front.ifname}, ${at.mtu} to ${at.servers.join(", ")} by ${device}`,
    consequence: `Packets above ${at.mtu} bytes are answered by an ICMP error instead of being forwarded${quiet}.`,
    remedy: `ip link set dev ${device} mtu ${front.mtu}`,
  });
}
