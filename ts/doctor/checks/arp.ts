/** Whether this host answers ARP for the addresses where frontends listen. */
import { isIPv4 } from "node:net";
import { error, type Found, ok, setting } from "../finding.ts";
import { type Check, frontends, type Look } from "../look.ts";
import { effective } from "../sysctl.ts";

/** arp_ignore: 1 and 2 answer for the asked link's own addresses, 8 never. */
const NEVER = 8;

export const arp: Check = {
  name: "arp",
  async find(look) {
    const vips = new Set(frontends(look).map(({ listen }) => listen.host));
    const held = (await look.network.addresses()).filter(
      ({ address }) => isIPv4(address) && vips.has(address),
    );
    const links = await linksOf(look);
    return held.flatMap(({ device, address, prefix }) => {
      if (device === "lo") return links.map((link) => onLoopback(look, link, `${address}/${prefix}`));
      return [onLink(look, device, address)];
    });
  },
};

/** Where clients and routers ask: by the default route, else anywhere. */
async function linksOf({ network }: Look): Promise<string[]> {
  const uplinks = await network.uplinks(4);
  if (uplinks.length > 0) return uplinks;
  const links = await network.links();
  return links
    .filter(({ flags }) => flags.includes("UP") && !flags.includes("NOARP") && !flags.includes("LOOPBACK"))
    .map(({ ifname }) => ifname);
}

function onLink({ host }: Look, device: string, address: string): Found {
  const { value, keys, evidence } = effective(host, device, "arp_ignore");
  if (value !== NEVER) return ok(`${device} answers ARP for ${address}`, evidence, address);
  return error({
    subject: address,
    title: `nobody answers ARP for ${address}`,
    evidence: `${evidence}; ip address: ${address} is on ${device}`,
    consequence: "Routers and clients on the link do not find the balancer.",
    ...setting(
      ...[keys.all, keys.own]
        .filter((key) => shownAs(evidence, key) === String(NEVER))
        .map((key) => ({ key, value: "1" })),
    ),
  });
}

function onLoopback({ host }: Look, link: string, held: string): Found {
  const { value, evidence } = effective(host, link, "arp_ignore");
  const [address = ""] = held.split("/");
  const where = `${evidence}; ip address: ${held} is on lo`;
  if (value === 0) return ok(`${link} answers ARP for ${address}, which is on lo`, where, address);
  return error({
    subject: address,
    title: `${link} does not answer ARP for ${address}`,
    evidence: where,
    consequence:
      "Routers and clients on the link do not find the balancer: an address on the loopback is not that link's own.",
    remedy: `ip address del ${held} dev lo && ip address add ${address}/32 dev ${link}`,
  });
}

function shownAs(evidence: string, key: string): string | undefined {
  return evidence
    .split(", ")
    .find((part) => part.startsWith(`${key} is `))
    ?.slice(key.length + 4);
}
