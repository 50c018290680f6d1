/** Where this server holds the VIP: on the loopback, alone, or it answers ARP in the balancer's place. */
import { error, type Found, ok } from "../finding.ts";
import type { HeldAddress } from "../network.ts";
import type { ServerCheck } from "./look.ts";

const QUIET = ["dummy"];

export const vip: ServerCheck = {
  name: "vip",
  async find({ network, vip: { host, family }, method }) {
    const held = (await network.addresses()).filter(({ address }) => address === host);
    const links = await network.links();
    const isQuiet = (device: string): boolean =>
      device === "lo" ||
      QUIET.includes(links.find(({ ifname }) => ifname === device)?.linkinfo?.info_kind ?? "");
    const full = family === 4 ? 32 : 128;
    const found: Found[] = [];
    for (const at of held) {
      const where = `ip address: ${host}/${at.prefix} is on ${at.device}`;
      if (!isQuiet(at.device)) found.push(announced(at, where));
      else if (method === "rewrite") found.push(inTheWay(at, where));
      else if (at.device === "lo" && at.prefix < full) found.push(tooWide(at, where, full));
      else found.push(ok(`${host} is held quietly`, where, host));
    }
    return found;
  },
};

function announced({ device, address, prefix }: HeldAddress, evidence: string): Found {
  return error({
    subject: address,
    title: `this server has ${address} on ${device}`,
    evidence,
    consequence: "It answers ARP for it, and clients reach this one server in the balancer's place.",
    remedy: `ip address del ${address}/${prefix} dev ${device}`,
  });
}

function inTheWay({ device, address, prefix }: HeldAddress, evidence: string): Found {
  return error({
    subject: address,
    title: `${address} is on ${device}, which method "rewrite" does not want`,
    evidence,
    consequence:
      "Health checks that come from it, and everything this server sends to it, never leave this host.",
    remedy: `ip address del ${address}/${prefix} dev ${device}`,
  });
}

function tooWide({ device, address, prefix }: HeldAddress, evidence: string, full: number): Found {
  return error({
    subject: address,
    title: `${address} is on ${device} with a whole network`,
    evidence,
    consequence: `Every address of ${address}/${prefix} counts as this server's own, so clients and balancers in it get no answer.`,
    remedy: `ip address del ${address}/${prefix} dev ${device}; ip address add ${address}/${full} dev ${device}`,
  });
}
