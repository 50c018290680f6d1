/** Who else handles the packets: programs on the links, IPVS, rules that translate, another Convey. */
import { isWildcard } from "../../config/address.ts";
import { error, type Found, NotChecked, notice, ok, warning } from "../finding.ts";
import { type Check, frontends, type Look, PACKET_MODES } from "../look.ts";

const isOurs = (name: string): boolean => name.startsWith("convey_");

export const programs: Check = {
  name: "programs",
  modes: PACKET_MODES,
  async find(look) {
    const found = [...(await xdp(look)), ...(await tc(look)), ...ipvs(look), ...(await translated(look))];
    if (found.length > 0) return found;
    return [
      ok("nobody else handles the packets", "ip link, tc filter, TCX, /proc/net/ip_vs, nft list ruleset"),
    ];
  },
};

async function xdp(look: Look): Promise<Found[]> {
  const links = new Map((await look.network.links()).map((link) => [link.ifname, link]));
  return (look.report?.links ?? []).flatMap(({ name, xdpProgram }) => {
    const program = links.get(name)?.xdp?.prog;
    if (!xdpProgram || isOurs(program?.name ?? "") || look.running?.engine?.includes("xdp")) return [];
    const wanted = ["xdp", "af_xdp"].includes(look.config.engine);
    const told = {
      subject: name,
      title: `${name} has an XDP program of somebody else`,
      evidence: `ip link: ${name} has XDP program ${program?.name ?? ""} (id ${program?.id ?? "unknown"})`,
      remedy: `ip link set dev ${name} xdp off`,
    };
    return wanted
      ? [
          error({
            ...told,
            consequence: `It is never replaced: a start with engine "${look.config.engine}" is refused.`,
          }),
        ]
      : [
          warning({
            ...told,
            consequence: 'It sees packets before Convey and may drop them; engine "xdp" cannot be had.',
          }),
        ];
  });
}

async function tc(look: Look): Promise<Found[]> {
  const found: Found[] = [];
  const links = look.report?.links ?? [];
  if (links.some(({ tcxPrograms }) => tcxPrograms === undefined)) {
    found.push(new NotChecked("CAP_NET_ADMIN and Linux 6.6, to list programs at TCX").finding());
  }
  for (const { name, tcxPrograms = [] } of links) {
    const others = tcxPrograms.filter((program) => !isOurs(program));
    const text = (await look.host.run(["tc", "filter", "show", "dev", name, "ingress"])) ?? "";
    const filters = text
      .split("\n")
      .filter((line) => /^filter .* (handle|fh) /.test(line) && !line.includes("convey_"));
    if (others.length + filters.length === 0) continue;
    found.push(
      notice({
        subject: name,
        title: `${name} has programs of others at tc ingress`,
        evidence: [
          ...others.map((program) => `TCX: ${program || "(unnamed)"}`),
          ...filters.map((line) => `tc: ${line.trim()}`),
        ].join("; "),
        consequence: "Convey hangs before them, and what it forwards they do not see.",
        remedy: filters.length > 0 ? `tc filter del dev ${name} ingress` : "",
      }),
    );
  }
  return found;
}

/** IPVS shows hexadecimal addresses: `TCP  0A000001:0050 rr`. */
function ipvs(look: Look): Found[] {
  const table = look.host.read("/proc/net/ip_vs");
  if (table === undefined) return [];
  return frontends(look).flatMap(({ name, protocol, listen }) => {
    if (listen.family !== 4) return [];
    const hex = listen.host
      .split(".")
      .map((byte) => Number(byte).toString(16).padStart(2, "0"))
      .join("");
    const service = `${protocol} ${hex}:${listen.port.toString(16).padStart(4, "0")}`.toUpperCase();
    const line = table.split("\n").find((l) => l.replace(/\s+/g, " ").toUpperCase().startsWith(service));
    if (line === undefined) return [];
    return [
      warning({
        subject: name,
        title: `IPVS serves ${listen.host}:${listen.port}, too`,
        evidence: `/proc/net/ip_vs: ${line.trim()}`,
        consequence: "Convey takes the packets before IPVS does, and connections that IPVS knows are cut.",
        remedy: `ipvsadm -D ${protocol === "udp" ? "-u" : "-t"} ${listen.host}:${listen.port}`,
      }),
    ];
  });
}

async function rules({ host }: Look): Promise<string | NotChecked> {
  try {
    return (
      (await host.run(["nft", "-a", "list", "ruleset"])) ??
      new NotChecked("root, to list packet filter rules by nft")
    );
  } catch (cause) {
    if (cause instanceof NotChecked) return cause;
    throw cause;
  }
}

/** Destination NAT for a frontend's address. */
async function translated(look: Look): Promise<Found[]> {
  const ruleset = await rules(look);
  if (typeof ruleset !== "string") return [ruleset.finding()];
  const vips = frontends(look).filter(({ listen }) => !isWildcard(listen));
  let at = { table: "", chain: "" };
  const found: Found[] = [];
  for (const line of ruleset.split("\n")) {
    const table = /^table (\S+ \S+)/.exec(line)?.[1];
    const chain = /^\s+chain (\S+)/.exec(line)?.[1];
    if (table !== undefined) at = { table, chain: "" };
    if (chain !== undefined) at = { ...at, chain };
    const vip = vips.find(({ listen }) => line.includes(` ${listen.host} `));
    if (vip === undefined || !/\b(dnat|redirect)\b/.test(line)) continue;
    found.push(
      warning({
        subject: vip.name,
        title: `a packet filter rule translates ${vip.listen.host}`,
        evidence: `nft: table ${at.table}, chain ${at.chain}: ${line.trim()}`,
        consequence:
          "Convey takes the packets before the rule does, so that the rule has no effect on them, or takes them when Convey is down.",
        remedy: `nft delete rule ${at.table} ${at.chain} handle ${/# handle (\d+)/.exec(line)?.[1] ?? "<handle>"}`,
      }),
    );
  }
  return found;
}
