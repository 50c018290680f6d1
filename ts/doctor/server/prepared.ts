/** What `convey dsr-server` makes on a server, as far as it is missing: shared with preparing itself. */
import { hostPort } from "../../config/address.ts";
import { error, type Found, ok } from "../finding.ts";
import type { ServerCheck, ServerLook } from "./look.ts";

export const prepared: ServerCheck = {
  name: "prepared",
  find(look) {
    if (look.report.problems.length > 0) return look.report.problems.map((problem) => judged(look, problem));
    const { vip, report, method } = look;
    const how =
      method === "rewrite"
        ? `answers of ${report.server} leave ${report.interfaces.join(", ")} in its name`
        : "it is on lo, and not announced";
    return [ok(`this server is prepared for ${hostPort(vip)}`, `journal and netlink: ${how}`)];
  },
};

function judged(look: ServerLook, { kind, fact }: ServerLook["report"]["problems"][number]): Found {
  const { vip, report, prepare } = look;
  const told = {
    subject: vip.host,
    title: fact,
    evidence: `netlink and the journal: ${fact}`,
    remedy: prepare,
  };
  switch (kind) {
    case "not_held":
      return error({
        ...told,
        evidence: `ip address: lo has no ${vip.host}`,
        consequence:
          "The kernel takes what the balancer sends for somebody else's, and drops or forwards it.",
        remedy: `ip address add ${vip.host}/${vip.family === 4 ? "32 dev lo" : "128 dev lo nodad"}`,
      });
    case "sysctl": {
      const [, key = "", value = ""] = /^(\S+) is .* should be (\S+)$/.exec(fact) ?? [];
      return error({
        ...told,
        subject: key,
        consequence: `The server answers or asks ARP in the name of ${vip.host}, and clients that believe it pass the balancer by.`,
        remedy: `sysctl -w ${key}="${value}"`,
      });
    }
    case "not_ours":
      return error({
        ...told,
        subject: report.server,
        consequence: "Packets of the balancer do not arrive here.",
        remedy: prepare.replace(/ --server \S+/, ""),
      });
    case "uncovered":
    case "detached":
      return error({
        ...told,
        consequence: "Answers that leave there bear the server's own address, and clients drop them.",
      });
    default:
      return error({
        ...told,
        consequence: "Answers bear the server's own address, and clients drop them.",
      });
  }
}
