/** The way of a server's answers: source validation on the way in, MTU, super-frames and redirects on the way out. */
import { strict } from "../checks/rp-filter.ts";
import { type Found, notice, ok, setting, warning } from "../finding.ts";
import type { Route } from "../network.ts";
import { interfaceKey, shown, sysctl } from "../sysctl.ts";
import { home, type ServerCheck } from "./look.ts";

export const rpFilter: ServerCheck = {
  name: "rp_filter",
  async find(look) {
    const device = await home(look);
    if (device === undefined || look.vip.family === 6) return [];
    return strict(look.host, look.network, [device]);
  },
};

/** Headers of IP and TCP without options. */
const HEADERS = { 4: 40, 6: 60 } as const;

/**
 * A server tells clients what they may send by the link on which it answers; their packets come by another one where
 * the balancer's link is not that of the default route.
 */
export const mtu: ServerCheck = {
  name: "mtu",
  async find(look) {
    const { family } = look.vip;
    const links = await look.network.links();
    const of = (name: string | undefined) => links.find(({ ifname }) => ifname === name);
    const inward = of(await home(look));
    const routes = await look.network.defaults(family);
    if (inward === undefined || routes.length === 0) {
      return [ok("answers leave by connected networks alone", "ip route: there is no default route")];
    }
    const fits = inward.mtu - HEADERS[family];
    return routes.map((route): Found => {
      const outward = of(route.dev) ?? inward;
      const told =
        route.metrics?.find(({ advmss }) => advmss !== undefined)?.advmss ?? outward.mtu - HEADERS[family];
      const evidence = `ip link and route: MTU ${inward.mtu} on ${inward.ifname}, MSS ${told} told by ${outward.ifname}`;
      if (told <= fits) return ok("clients are told to send what fits", evidence, outward.ifname);
      return warning({
        subject: outward.ifname,
        title: `clients are told to send more than ${inward.ifname} takes`,
        evidence,
        consequence: `Their packets come by ${inward.ifname}; large ones hang where the ICMP error about them does not reach the client.`,
        remedy: adviseLess(family, route, fits),
      });
    });
  },
};

function adviseLess(family: 4 | 6, { gateway, dev, metric }: Route, advmss: number): string {
  const words = ["ip", `-${family}`, "route", "change", "default"];
  if (gateway !== undefined) words.push("via", gateway);
  words.push("dev", dev ?? "");
  if (metric !== undefined) words.push("metric", String(metric));
  return [...words, "advmss", String(advmss)].join(" ");
}

/** Linux's limit on super-frames without BIG TCP. */
const USUAL_GSO = 65536;

export const superFrames: ServerCheck = {
  name: "super_frames",
  methods: ["rewrite"],
  async find({ network, report, vip }) {
    const links = (await network.links()).filter(({ ifname }) => report.interfaces.includes(ifname));
    return links.map(({ ifname, gso_max_size = USUAL_GSO, gso_ipv4_max_size = USUAL_GSO }): Found => {
      const [size, name] =
        vip.family === 4 ? [gso_ipv4_max_size, "gso_ipv4_max_size"] : [gso_max_size, "gso_max_size"];
      const evidence = `ip link: ${name} of ${ifname} is ${size}`;
      if (size <= USUAL_GSO)
        return ok(`super-frames that leave ${ifname} can be rewritten`, evidence, ifname);
      return notice({
        subject: ifname,
        title: `${ifname} sends super-frames above 64 KB (BIG TCP)`,
        evidence,
        consequence:
          "Whether answers of that size are rewritten has not been tested; where large downloads hang, the remedy tells whether it is this.",
        remedy: `ip link set dev ${ifname} ${name} ${USUAL_GSO}`,
      });
    });
  },
};

export const redirects: ServerCheck = {
  name: "redirects",
  async find(look) {
    const device = await home(look);
    if (device === undefined || look.vip.family === 6) return [];
    const keys = ["all", device].map((name) => interfaceKey(4, name, "accept_redirects"));
    const values = keys.map((key) => sysctl(look.host, key) === "1");
    // A host takes redirects if either says so, a router if both do.
    const isRouter = sysctl(look.host, interfaceKey(4, device, "forwarding")) === "1";
    const evidence = shown(look.host, ...keys);
    if (!(isRouter ? values.every(Boolean) : values.some(Boolean))) {
      return [ok(`${device} takes no ICMP redirects`, evidence, device)];
    }
    const off = keys.map((key) => ({ key, value: "0" }));
    return [
      notice({
        subject: device,
        title: `${device} takes ICMP redirects`,
        evidence,
        consequence:
          "Answers to a client may be sent another way by whoever is on the link, also by way of the balancer, which drops them.",
        remedy: setting(...off).remedy,
      }),
    ];
  },
};
