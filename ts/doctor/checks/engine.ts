/** Which engine forwards, or would, and why not a faster one; what of the start can be told in advance. */
import { error, type Found, ok, warning } from "../finding.ts";
import { type Check, engineTaken, PACKET_MODES } from "../look.ts";

export const engine: Check = {
  name: "engine",
  modes: PACKET_MODES,
  find(look) {
    const { report, refusal, config, running, host } = look;
    if (refusal !== undefined) return [refused(refusal)];
    if (report !== undefined && report.refused !== "") return [refused(report.refused)];
    const taken = engineTaken(look);
    const links = report?.links ?? [];
    const why = (report?.refusedEngines ?? []).map(({ engine: name, cause }) => `not ${name}: ${cause}`);
    if (taken !== report?.engine && running === undefined)
      why.push(`not ${report?.engine}: ${host.kernel().bpfRefused}`);
    const place = `on ${links.map(({ name }) => name).join(", ")}`;
    const how =
      running === undefined || running.elsewhere !== undefined
        ? `a start would take it ${place}`
        : `at work ${place}`;
    const needsXdp = ["xdp", "af_xdp"].includes(config.engine) && config.xdp.mode === "native";
    const without = needsXdp ? links.filter(({ nativeXdp }) => nativeXdp === false) : [];
    return [
      ok(`engine ${taken}`, [how, ...why].join("; ")),
      ...without.map(({ name, kind, driver }) =>
        warning({
          subject: name,
          title: `${name} has no native XDP`,
          evidence: `netlink xdp_features of ${name} (${driver || kind || "unknown driver"}) has no NETDEV_XDP_ACT_BASIC`,
          consequence: `With engine "${config.engine}" packets that arrive there are not forwarded, and a start that names it is refused.`,
          remedy: `engine = "tc"`,
        }),
      ),
    ];
  },
};

/** The sentence ends with what to try, after the last semicolon. */
function refused(sentence: string): Found {
  const at = sentence.lastIndexOf("; ");
  return error({
    title: "this host cannot serve the configuration",
    evidence: at < 0 ? sentence : sentence.slice(0, at),
    consequence: "The start is refused.",
    remedy: at < 0 ? "" : sentence.slice(at + 2),
  });
}
