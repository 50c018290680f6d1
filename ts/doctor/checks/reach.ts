/** What the start itself says of servers and listening addresses: shared with it, so that both say the same. */
import type { NativeHostProblem } from "../../native/index.ts";
import { error, type Found, ok, warning } from "../finding.ts";
import { type Check, frontends, type Look, PACKET_MODES } from "../look.ts";

export const reach: Check = {
  name: "reach",
  modes: PACKET_MODES,
  async find(look) {
    const { report } = look;
    if (report === undefined) return [];
    const found = await Promise.all(report.problems.map((problem) => judged(look, problem)));
    const notes = report.notes.map((note) =>
      warning({
        title: note.split(/[:;] /)[0] ?? note,
        evidence: note,
        consequence: "Packets that it is about do not go the way that the kernel would send them.",
        remedy: 'engine = "af_packet"',
      }),
    );
    if (found.length + notes.length > 0) return [...found, ...notes];
    return [
      ok(
        "listening addresses are held here, and routes lead to every server",
        "netlink: addresses, routes and rules",
      ),
    ];
  },
};

async function judged(look: Look, { kind, fact, consequence }: NativeHostProblem): Promise<Found> {
  const told = { evidence: `netlink: ${fact}`, consequence: sentence(consequence) };
  const subject = /[\da-f]*[.:][\da-f.:]+/.exec(fact)?.[0] ?? fact.split(" ")[0] ?? "";
  switch (kind) {
    case "unheld":
      return warning({
        ...told,
        subject,
        title: `no interface has ${subject}, where a frontend listens`,
        remedy: `ip address add ${subject}/${subject.includes(":") ? 128 : 32} dev ${await front(look)}`,
      });
    case "no_own_address": {
      const device = fact.split(" ")[0] ?? "";
      return error({
        ...told,
        subject: device,
        title: fact,
        remedy: `ip address add <an unused address of its network>/24 dev ${device}`,
      });
    }
    case "rewritten_to_one":
      return error({
        ...told,
        subject,
        title: "a server serves several listening addresses, and can answer for one",
        remedy: 'dsr.method = "l2"',
      });
    default: {
      const [, server = "", backend = ""] = /^Server "(.*)" of backend "(.*?)" /.exec(fact) ?? [];
      const address = look.config.backends[backend]?.servers[server]?.addr ?? "";
      const host = address.replace(/:\d+$/, "").replace(/[[\]]/g, "");
      return error({
        ...told,
        subject: `${backend}/${server}`,
        title: `no packet can be sent to ${backend}/${server}`,
        consequence:
          "Its share of new connections is refused, or goes to other servers where checks find it down.",
        remedy: wayTo(host, fact),
      });
    }
  }
}

/** What makes a way, by what stands in it. */
function wayTo(host: string, fact: string): string {
  const kind = /is of type (\w+)$/.exec(fact)?.[1];
  if (kind !== undefined) return `ip route del ${kind} ${host}`;
  const device = /is over (\S+), no Ethernet link/.exec(fact)?.[1];
  if (device !== undefined) return `ip link set dev ${device} up; or move the server behind an Ethernet link`;
  return `ip route add ${host} via <the router that leads there>`;
}

/** The link that clients likely come by. */
async function front(look: Look): Promise<string> {
  const [uplink] = [...(await look.network.uplinks(4)), ...(await look.network.uplinks(6))];
  return uplink ?? look.report?.links[0]?.name ?? frontends(look)[0]?.name ?? "";
}

function sentence(text: string): string {
  return text === "" ? "" : `${text[0]?.toUpperCase()}${text.slice(1)}.`;
}
