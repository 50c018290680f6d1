/** The way of a server's answers: source validation on the way in, MTU, super-frames and redirects on the way out. */
import { strict } from "../checks/rp-filter.ts";
import { type Found, notice, ok, setting, warning } from "../finding.ts";
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

export const mtu: ServerCheck = {
  name: "mtu",
  async find(look) {
    const links = await look.network.links();
    const of = (name: string | undefined) => links.find(({ ifname }) => ifname === name);
    const inward = of(await home(look));
    const uplinks = await look.network.uplinks(look.vip.family);
    if (inward === undefined || uplinks.length === 0) {
      return [ok("answers leave by connected networks alone", "ip route: there is no default route")];
    }
    return uplinks.map((name): Found => {
      const outward = of(name) ?? inward;
      const evidence = `ip link: MTU ${inward.mtu} on ${inward.ifname}, ${outward.mtu} on ${name}`;
      if (outward.mtu >= inward.mtu || name === inward.ifname)
        return ok("answers fit the way to clients", evidence, name);
      return warning({
        subject: name,
        title: `${name} takes smaller packets than ${inward.ifname}`,
        evidence,
        consequence: `Clients learn from the server that ${inward.mtu} bytes fit, and hear of the smaller link only by ICMP errors, which name an address that they do not know.`,
        remedy: `ip route change default dev ${name} advmss ${outward.mtu - 40}`,
      });
    });
  },
};

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
