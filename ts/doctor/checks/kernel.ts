/** What the kernel allows and has: BPF, its compiler, and the features that engines go by. */
import { type Found, notice, ok, setting, warning } from "../finding.ts";
import type { Check, Look } from "../look.ts";
import { PACKET_MODES } from "../look.ts";
import { shown, sysctl } from "../sysctl.ts";

const UNPRIVILEGED = "kernel.unprivileged_bpf_disabled";
const JIT = "net.core.bpf_jit_enable";

export const kernel: Check = {
  name: "kernel",
  modes: PACKET_MODES,
  find: (look) => [bpf(look), ...features(look), ...jit(look), ...unprivileged(look)],
};

function bpf({ host, config }: Look): Found {
  const { bpfRefused } = host.kernel();
  if (bpfRefused === "")
    return ok("programs for the kernel may be loaded", "a small one was, and let go again");
  const lockdown = /\[(\w+)\]/.exec(host.read("/sys/kernel/security/lockdown") ?? "")?.[1] ?? "none";
  return warning({
    title: "programs for the kernel are refused",
    evidence: `loading one: ${bpfRefused}; kernel lockdown: ${lockdown}`,
    consequence:
      config.engine === "auto"
        ? 'Engine "auto" takes af_packet, which forwards in user space at some two to four times the cost.'
        : `Engine "${config.engine}" ${config.engine === "af_packet" ? "guards its ports by nft instead" : "is refused"}.`,
    remedy:
      lockdown === "confidentiality"
        ? "boot without lockdown=confidentiality"
        : 'sudo setcap cap_net_raw,cap_net_admin,cap_bpf+ep "$(readlink -f "$(command -v node)")"',
  });
}

/** Linux has maps that user space maps since 5.5, older ones are not supported at all. */
function features({ host, report }: Look): Found[] {
  const release = host.read("/proc/sys/kernel/osrelease")?.trim() ?? "";
  const [major = 0, minor = 0] = release.split(".").map(Number.parseFloat);
  const links = report?.links ?? [];
  const hasTcx = links.length > 0 && links.every(({ tcxPrograms }) => tcxPrograms !== undefined);
  const evidence = [
    `Linux ${release}`,
    `TCX: ${hasTcx ? "yes" : "not told or missing, a clsact filter instead"}`,
    `maps mapped into user space: ${major > 5 || (major === 5 && minor >= 5) ? "yes" : "no"}`,
    `IPv6 checksum flag: ${host.kernel().csumIpv6 ? "yes" : "no"}`,
  ].join("; ");
  if (major > 5 || (major === 5 && minor >= 5)) return [ok("the kernel has what engines need", evidence)];
  return [
    warning({
      title: "the kernel is too old for engines tc, xdp and af_xdp",
      evidence,
      consequence: "Only af_packet can be had.",
      remedy: "boot Linux 6.6 or later",
    }),
  ];
}

function jit({ host }: Look): Found[] {
  if (sysctl(host, JIT) !== "0") return [];
  return [
    warning({
      title: "the kernel interprets BPF programs",
      subject: JIT,
      evidence: shown(host, JIT),
      consequence: "Each packet costs several times as much with kernel engines.",
      remedy: setting({ key: JIT, value: "1" }).remedy,
    }),
  ];
}

function unprivileged({ host }: Look): Found[] {
  if (sysctl(host, UNPRIVILEGED) !== "0") return [];
  return [
    notice({
      title: "every user may load BPF programs",
      subject: UNPRIVILEGED,
      evidence: shown(host, UNPRIVILEGED),
      consequence:
        "Users of this host can probe the kernel's memory by side channels; Convey does not need it.",
      remedy: setting({ key: UNPRIVILEGED, value: "2" }).remedy,
    }),
  ];
}
