/** `convey dsr-server --check` on servers with one thing broken: found with its evidence, mended by its remedy as printed. */
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Finding } from "../../../ts/doctor/finding.ts";
import type { Running } from "../../support/processes.ts";
import { lacking } from "../../support/requirements.ts";
import { beside, DoctorLab, serve, troubles } from "./lab.ts";

const missing = lacking({ root: true, tools: ["ip", "tc", "sysctl", "ethtool"] });
const VIP = "10.1.0.1:80";
type Method = "rewrite" | "l2";

interface Case {
  name: string;
  method: Method;
  breaks: string;
  finds: string;
  also?: string[];
  severity: Finding["severity"];
  evidence: RegExp;
}

const CASES: Case[] = [
  {
    name: "the program that rewrites answers is gone",
    method: "rewrite",
    breaks: "tc qdisc del dev s0 clsact",
    finds: "prepared",
    severity: "error",
    evidence: /the egress program is not attached to s0 any more/,
  },
  {
    name: "answers may leave by an interface where nothing rewrites them",
    method: "rewrite",
    breaks: "ip route add default via 10.3.0.1 dev s1 metric 50",
    finds: "prepared",
    // The preparation is another one for it.
    also: ["prepared"],
    severity: "error",
    evidence: /answers may leave by s1, where nothing rewrites them/,
  },
  {
    name: "the VIP on the link with method rewrite",
    method: "rewrite",
    breaks: "ip address add 10.1.0.1/32 dev s0",
    finds: "vip",
    severity: "error",
    evidence: /^ip address: 10\.1\.0\.1\/32 is on s0$/,
  },
  {
    name: "the VIP on the loopback with method rewrite",
    method: "rewrite",
    breaks: "ip address add 10.1.0.1/32 dev lo",
    finds: "vip",
    severity: "error",
    evidence: /^ip address: 10\.1\.0\.1\/32 is on lo$/,
  },
  {
    name: "the VIP taken off the loopback",
    method: "l2",
    breaks: "ip address del 10.1.0.1/32 dev lo",
    finds: "prepared",
    severity: "error",
    evidence: /^ip address: lo has no 10\.1\.0\.1$/,
  },
  {
    name: "the VIP on the loopback with a whole network",
    method: "l2",
    breaks: "ip address del 10.1.0.1/32 dev lo; ip address add 10.1.0.1/24 dev lo",
    finds: "vip",
    severity: "error",
    evidence: /^ip address: 10\.1\.0\.1\/24 is on lo$/,
  },
  {
    name: "the VIP on the link beside the loopback",
    method: "l2",
    breaks: "ip address add 10.1.0.1/32 dev s0",
    finds: "vip",
    severity: "error",
    evidence: /^ip address: 10\.1\.0\.1\/32 is on s0$/,
  },
  {
    name: "ARP answered for the loopback's addresses",
    method: "l2",
    breaks: "sysctl -qw net.ipv4.conf.all.arp_ignore=0",
    finds: "prepared",
    severity: "error",
    evidence: /net\.ipv4\.conf\.all\.arp_ignore is 0 and should be 1/,
  },
  {
    name: "ARP asked in the VIP's name",
    method: "l2",
    breaks: "sysctl -qw net.ipv4.conf.all.arp_announce=0",
    finds: "prepared",
    severity: "error",
    evidence: /net\.ipv4\.conf\.all\.arp_announce is 0 and should be 2/,
  },
  {
    name: "strict source validation where the way to clients is another link",
    method: "l2",
    breaks: "sysctl -qw net.ipv4.conf.s0.rp_filter=1; ip route replace default via 10.3.0.1 dev s1",
    finds: "rp_filter",
    severity: "warning",
    evidence: /net\.ipv4\.conf\.s0\.rp_filter is 1; the default route leads by s1$/,
  },
  {
    name: "a link from the balancer that takes less than clients are told to send",
    method: "l2",
    breaks: "ip link set dev s0 mtu 1400; ip route replace default via 10.3.0.1 dev s1",
    finds: "mtu",
    severity: "warning",
    evidence: /^ip link and route: MTU 1400 on s0, MSS 1460 told by s1$/,
  },
  {
    name: "redirects that anyone on the link may send",
    method: "l2",
    breaks: "sysctl -qw net.ipv4.conf.s0.accept_redirects=1",
    finds: "redirects",
    severity: "notice",
    evidence: /net\.ipv4\.conf\.s0\.accept_redirects is 1/,
  },
];

describe("convey dsr-server --check on a server", { timeout: 120_000 }, () => {
  let lab: DoctorLab;
  let service: Running;
  beforeEach(async (context) => {
    if (missing !== undefined) return context.skip(missing);
    lab = await DoctorLab.create();
    service = await serve(lab);
  });
  afterEach(async () => {
    await service?.[Symbol.asyncDispose]();
    await lab?.remove();
  });

  const words = (method: Method, ...more: string[]) => [
    "dsr-server",
    VIP,
    "--method",
    method,
    "--server",
    "10.2.0.2",
    ...more,
  ];

  async function check(method: Method): Promise<Finding[]> {
    const done = await lab.convey("server", words(method, "--check", "--json"));
    expect(done.stderr).toBe("");
    const { action, ok, findings } = JSON.parse(done.stdout) as {
      action: string;
      ok: boolean;
      findings: Finding[];
    };
    expect({ action, code: done.code }).toEqual({ action: "check", code: ok ? 0 : 1 });
    return findings;
  }

  async function prepare(method: Method): Promise<void> {
    expect(await lab.convey("server", words(method))).toMatchObject({ code: 0, stderr: "" });
  }

  test.each<Method>(["rewrite", "l2"])(
    "a prepared server is fine, method %s; one that is not is told how",
    async (method) => {
      const broken = troubles(await check(method));
      expect(broken.length).toBeGreaterThan(0);
      for (const { check: name, severity } of broken) expect([name, severity]).toEqual(["prepared", "error"]);
      for (const { remedy } of broken) await lab.remedy("server", remedy);
      expect(troubles(await check(method))).toEqual([]);
      const shown = await lab.convey("server", words(method, "--check"));
      expect(shown.code).toBe(0);
      expect(shown.stdout).toContain("ok       prepared: this server is prepared for 10.1.0.1:80");
    },
  );

  test.each(CASES)(
    "finds, and mends by its remedy: $name",
    async ({ method, breaks, finds, also = [], ...wanted }) => {
      await prepare(method);
      const sound = await check(method);
      expect(troubles(sound)).toEqual([]);
      await lab.sh("server", breaks);
      const broken = beside(await check(method), sound);
      expect(broken.map((finding) => finding.check).sort()).toEqual([finds, ...also].sort());
      const [finding] = broken;
      expect(finding).toMatchObject({ severity: wanted.severity, checked: true });
      expect(finding?.evidence).toMatch(wanted.evidence);
      expect(finding?.consequence).toMatch(/^[A-Z].*\.$/);
      await lab.remedy("server", finding?.remedy ?? "");
      expect(beside(await check(method), sound)).toEqual([]);
    },
  );

  test("finds that nothing listens, and that a program listens on another address", async () => {
    await prepare("l2");
    await service.stop("SIGKILL");
    const none = troubles(await check("l2"));
    expect(none).toMatchObject([
      { check: "listener", severity: "error", evidence: "/proc/net/tcp: no socket listens on port 80" },
    ]);
    service = await serve(lab, "10.2.0.2");
    const elsewhere = troubles(await check("l2"));
    expect(elsewhere).toMatchObject([
      { check: "listener", subject: VIP, evidence: "/proc/net/tcp: listening on 10.2.0.2:80" },
    ]);
    expect(elsewhere[0]?.remedy).toBe("start the service, or have it listen on 0.0.0.0:80");
    await service.stop("SIGKILL");
    service = await serve(lab, "0.0.0.0");
    expect(troubles(await check("l2"))).toEqual([]);
  });
});
