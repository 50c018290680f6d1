/** What the servers of a lab need for direct server return. */
import { FAMILIES, type PacketLab, SERVERS } from "./lab.ts";

/** Method "l2": every server holds the VIP and keeps silent about it. */
export async function holdVip(lab: PacketLab): Promise<void> {
  for (const place of SERVERS) {
    await lab.sh(
      place,
      `sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
       ip address add ${lab.vip("v4")}/32 dev lo
       ip address add ${lab.vip("v6")}/128 dev lo nodad`,
    );
  }
}

/** Method "rewrite": answers to anybody but the balancer's health checks leave with the VIP as their source. */
export async function answerAsVip(lab: PacketLab, ports: readonly number[]): Promise<void> {
  for (const place of SERVERS) {
    const rules = FAMILIES.flatMap((family) => {
      const ip = family === "v4" ? "ip" : "ip6";
      const own = [lab.vip(family), ...lab.balancer(family)].join(", ");
      return ["tcp", "udp"].map(
        (protocol) =>
          `${ip} saddr ${lab.server(place, family)} ${ip} daddr != { ${own} } ${protocol} sport { ${ports.join(", ")} } ${ip} saddr set ${lab.vip(family)}`,
      );
    });
    await lab.sh(
      place,
      `nft 'table inet dsr { chain out { type filter hook postrouting priority 0; ${rules.join("\n")}\n}\n}'`,
    );
  }
}
