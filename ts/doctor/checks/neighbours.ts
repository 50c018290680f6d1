/** Whether next hops answer: the kernel's neighbour table. */
import { type Found, ok, warning } from "../finding.ts";
import { type Check, PACKET_MODES, servers } from "../look.ts";

export const neighbours: Check = {
  name: "neighbours",
  modes: PACKET_MODES,
  async find(look) {
    const table = await look.network.neighbours();
    const ways = new Map<string, { device: string; servers: string[] }>();
    for (const { key, address } of servers(look)) {
      const route = await look.network.route(address.host);
      if (route?.dev === undefined) continue;
      const hop = route.gateway ?? address.host;
      const at = ways.get(hop) ?? { device: route.dev, servers: [] };
      at.servers.push(key);
      ways.set(hop, at);
    }
    const found = [...ways].flatMap(([hop, { device, servers: keys }]): Found[] => {
      const entry = table.find(({ dst, dev }) => dst === hop && dev === device);
      const bad = entry?.state?.find((state) => state === "FAILED" || state === "INCOMPLETE");
      if (bad === undefined) return [];
      return [
        warning({
          subject: hop,
          title: `${hop} does not answer on ${device}`,
          evidence: `ip neigh: ${hop} dev ${device} ${bad}, the next hop to ${keys.join(", ")}`,
          consequence:
            "Packets to these servers are lost: it is down, not on this link, or answers no ARP. The remedy has it asked again.",
          remedy: `ip neigh flush to ${hop} dev ${device}`,
        }),
      ];
    });
    if (found.length > 0) return found;
    return [ok("no next hop has failed to answer", `ip neigh: ${[...ways.keys()].join(", ")}`)];
  },
};
