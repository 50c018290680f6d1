/** `convey doctor` on hosts with one thing broken: it is found with its evidence, and its remedy, as printed, mends it. */
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Finding } from "../../../ts/doctor/finding.ts";
import { type Running, start } from "../../support/processes.ts";
import { lacking } from "../../support/requirements.ts";
import { beside, DoctorLab, serve, troubles } from "./lab.ts";

const missing = lacking({ root: true, tools: ["ip", "ss", "tc", "sysctl", "ethtool", "nft"] });

interface Options {
  /** Key lines before the frontends. */
  top?: string[];
  listen?: string;
  more?: string[];
}

const config = (mode: string, { top = [], listen = "10.1.0.1:80", more = [] }: Options = {}): string =>
  [
    `mode = "${mode}"`,
    ...top,
    "[frontends.web]",
    `listen_addr = "${listen}"`,
    'backend = "app"',
    "[backends.app.servers]",
    'one = { addr = "10.2.0.2:80" }',
    ...more,
    "",
  ].join("\n");

const SPARE = ["[frontends.spare]", 'listen_addr = "10.1.0.9:80"', 'backend = "app"'];
const PASSTHROUGH = config("passthrough", { more: ["[passthrough]", "connection_tracker_capacity = 4096"] });

interface Case {
  name: string;
  toml: string;
  /** Further words of the command line. */
  words?: string[];
  /** Words before it, in place of what breaks, for what belongs to the process. */
  before?: string[];
  breaks?: string;
  /** What is found, and what else comes of the same thing. */
  finds: string;
  also?: string[];
  severity: Finding["severity"];
  evidence: RegExp;
  /** Where the remedy has a place to fill in, or names a key of the configuration or somebody else's host. */
  remedy?: (printed: string) => string;
  /** `--fix` does it, too. */
  fixes?: boolean;
}

const CASES: Case[] = [
  {
    name: "a card's checksums left to the processor",
    toml: PASSTHROUGH,
    breaks: "ethtool -K fr0 tx off >/dev/null",
    finds: "offloads",
    severity: "notice",
    evidence: /^ethtool -k fr0: tx-checksumming off$/,
  },
  {
    name: "a foreign filter at tc ingress",
    toml: PASSTHROUGH,
    breaks:
      "tc qdisc add dev fr0 clsact; tc filter add dev fr0 ingress protocol ip u32 match ip dst 192.0.2.1/32",
    finds: "programs",
    severity: "notice",
    evidence: /tc: filter protocol ip pref \d+ u32 /,
  },
  {
    name: "a foreign XDP program",
    toml: PASSTHROUGH,
    breaks: `ip link set dev fr0 xdp obj ${new URL("../../../crates/convey-bpf/objects/reference.o", import.meta.url).pathname} sec xdp`,
    finds: "programs",
    severity: "warning",
    evidence: /^ip link: fr0 has XDP program \S* ?\(id \d+\)$/,
  },
  {
    name: "a packet filter rule that translates the listening address",
    toml: PASSTHROUGH,
    breaks:
      "nft 'add table ip other; add chain ip other pre { type nat hook prerouting priority dstnat; }; add rule ip other pre ip daddr 10.1.0.1 tcp dport 80 dnat to 10.2.0.2'",
    finds: "programs",
    severity: "warning",
    evidence: /^nft: table ip other, chain pre: ip daddr 10\.1\.0\.1 tcp dport 80 dnat to 10\.2\.0\.2/,
  },
  {
    name: "a listening address that nobody holds",
    toml: config("passthrough", { more: SPARE }),
    breaks: "ip address del 10.1.0.9/32 dev fr0",
    finds: "reach",
    severity: "warning",
    evidence: /10\.1\.0\.9, where a frontend listens, is no address of this host/,
  },
  {
    name: "a route that rejects what goes to a server",
    toml: PASSTHROUGH,
    breaks: "ip route add unreachable 10.2.0.2",
    finds: "reach",
    // A packet cannot be sent, so no connection can be made, and no MTU or device be told.
    also: ["servers"],
    severity: "error",
    evidence:
      /Server "one" of backend "app" cannot be reached: the route to 10\.2\.0\.2 is of type unreachable/,
  },
  {
    name: "a listening address on the loopback where ARP is answered for links' own addresses alone",
    toml: PASSTHROUGH,
    breaks:
      "ip address del 10.1.0.1/24 dev fr0; ip address add 10.1.0.1/32 dev lo; ip address add 10.1.0.8/24 dev fr0; ip route replace default via 10.1.0.2; sysctl -qw net.ipv4.conf.fr0.arp_ignore=1",
    finds: "arp",
    severity: "error",
    evidence: /net\.ipv4\.conf\.fr0\.arp_ignore is 1; ip address: 10\.1\.0\.1\/32 is on lo/,
  },
  {
    name: "ARP that is never answered",
    toml: PASSTHROUGH,
    breaks: "sysctl -qw net.ipv4.conf.fr0.arp_ignore=8",
    finds: "arp",
    severity: "error",
    evidence: /net\.ipv4\.conf\.fr0\.arp_ignore is 8; ip address: 10\.1\.0\.1 is on fr0/,
    fixes: true,
  },
  {
    name: "strict source validation where clients come by another link than their way back",
    toml: config("proxy", { listen: "10.2.0.1:8080" }),
    breaks: "sysctl -qw net.ipv4.conf.bk0.rp_filter=1",
    finds: "rp_filter",
    severity: "warning",
    evidence: /net\.ipv4\.conf\.bk0\.rp_filter is 1; the default route leads by fr0$/,
    fixes: true,
  },
  {
    name: "answers whose way the kernel does not tell",
    toml: PASSTHROUGH,
    breaks: "sysctl -qw net.ipv4.conf.bk0.forwarding=0",
    finds: "forwarding",
    severity: "warning",
    evidence: /^net\.ipv4\.conf\.bk0\.forwarding is 0$/,
    fixes: true,
  },
  {
    name: "a way to servers that takes less than clients send",
    toml: PASSTHROUGH,
    breaks: "ip link set dev bk0 mtu 1400",
    finds: "mtu",
    severity: "warning",
    evidence: /MTU 1500 on fr0, 1400 to app\/one by bk0/,
  },
  {
    name: "a neighbour that has failed",
    toml: PASSTHROUGH,
    breaks: "ip neigh replace 10.2.0.2 dev bk0 nud failed",
    finds: "neighbours",
    severity: "warning",
    evidence: /ip neigh: 10\.2\.0\.2 dev bk0 FAILED, the next hop to app\/one/,
  },
  {
    name: "no port left beside those for NAT",
    toml: PASSTHROUGH,
    breaks: 'sysctl -qw net.ipv4.ip_local_port_range="33768 61000"',
    finds: "ports",
    severity: "error",
    evidence: /net\.ipv4\.ip_local_port_range is 33768 61000, .* passthrough\.port_range is 33768-61000/,
  },
  {
    name: "a short queue before accept",
    toml: config("proxy"),
    breaks: "sysctl -qw net.core.somaxconn=128",
    finds: "backlog",
    severity: "warning",
    evidence: /^net\.core\.somaxconn is 128$/,
    fixes: true,
  },
  {
    name: "a short queue of handshakes",
    toml: config("proxy"),
    breaks: "sysctl -qw net.ipv4.tcp_max_syn_backlog=16",
    finds: "backlog",
    severity: "warning",
    evidence: /^net\.ipv4\.tcp_max_syn_backlog is 16$/,
    fixes: true,
  },
  {
    name: "SYN cookies switched off",
    toml: config("proxy"),
    breaks: "sysctl -qw net.ipv4.tcp_syncookies=0",
    finds: "backlog",
    severity: "warning",
    evidence: /^net\.ipv4\.tcp_syncookies is 0$/,
    fixes: true,
  },
];

// Each looks at the host several times, a process of its own each time: long on a busy machine.
describe("convey doctor on a balancer", { timeout: 120_000 }, () => {
  let lab: DoctorLab;
  let server: Running;
  beforeEach(async (context) => {
    if (missing !== undefined) return context.skip(missing);
    lab = await DoctorLab.create();
    await lab.sh("balancer", "ip address add 10.1.0.9/32 dev fr0");
    server = await serve(lab);
  });
  afterEach(async () => {
    await server?.[Symbol.asyncDispose]();
    await lab?.remove();
  });

  interface Answer {
    ok: boolean;
    findings: Finding[];
    fixed: string[];
  }

  async function examine(
    toml: string,
    words: string[] = [],
    before: string[] = [],
    name = "convey",
  ): Promise<Answer> {
    const done = await lab.convey(
      "balancer",
      ["doctor", "--json", "-c", lab.file(toml, name), ...words],
      before,
    );
    expect(done.stderr).toBe("");
    const answer = JSON.parse(done.stdout) as Answer;
    expect(done.code).toBe(answer.ok ? 0 : 1);
    return answer;
  }

  test.each(["passthrough", "proxy"])("a sound host has no error and no warning, mode %s", async (mode) => {
    const { ok, findings, fixed } = await examine(mode === "proxy" ? config(mode) : PASSTHROUGH);
    expect(troubles(findings)).toEqual([]);
    expect({ ok, fixed }).toEqual({ ok: true, fixed: [] });
    expect(findings.length).toBeGreaterThan(10);
    for (const finding of findings) expect(finding.evidence, finding.title).not.toBe("");
  });

  test.each(CASES)("finds, and mends by its remedy: $name", async (wanted) => {
    const { toml, words, breaks = "true", finds, also = [], remedy = (text: string) => text } = wanted;
    const sound = (await examine(toml, words)).findings;
    await lab.sh("balancer", breaks);
    const broken = beside((await examine(toml, words)).findings, sound);
    expect(broken.map(({ check }) => check).sort()).toEqual([finds, ...also].sort());
    const finding = broken.find(({ check }) => check === finds) as Finding;
    expect(finding).toMatchObject({ severity: wanted.severity, checked: true });
    expect(finding.evidence).toMatch(wanted.evidence);
    expect(finding.consequence).toMatch(/^[A-Z].*\.$/);
    if (wanted.fixes) await fixAndUndo(toml, broken, sound);

    await lab.remedy("balancer", remedy(finding.remedy));
    expect(beside((await examine(toml, words)).findings, sound)).toEqual([]);
  });

  /** The parameters of findings as they are. */
  async function values(findings: readonly Finding[]): Promise<string> {
    const keys = findings.flatMap(({ fix }) => fix.map(({ key }) => key));
    return lab.sh("balancer", `sysctl ${keys.join(" ")}`);
  }

  async function fixAndUndo(toml: string, broken: Finding[], sound: Finding[]): Promise<void> {
    const before = await values(broken);
    const { fixed, findings } = await examine(toml, ["--fix"]);
    expect(fixed).toEqual(broken.flatMap(({ remedy }) => remedy.split("; ")));
    expect(beside(findings, sound)).toEqual([]);
    const after = await values(broken);
    expect((await examine(toml, ["--fix"])).fixed).toEqual([]);
    expect(await values(broken)).toBe(after);

    const undone = await lab.convey("balancer", ["doctor", "--undo"]);
    expect(undone).toMatchObject({ code: 0, stderr: "" });
    expect(undone.stdout).toMatch(/^set net\.\S+ back to \d+/);
    expect(await values(broken)).toBe(before);
    expect((await lab.convey("balancer", ["doctor", "--undo"])).stdout).toBe("nothing to take back\n");
  }

  test("--undo leaves what somebody changed after --fix, and says so", async () => {
    await lab.sh("balancer", "sysctl -qw net.core.somaxconn=128");
    expect((await examine(config("proxy"), ["--fix"])).fixed).toEqual(["sysctl -w net.core.somaxconn=4096"]);
    await lab.sh("balancer", "sysctl -qw net.core.somaxconn=5000");
    const undone = await lab.convey("balancer", ["doctor", "--undo"]);
    expect(undone.stdout).toBe("left net.core.somaxconn at 5000: someone changed it from 4096 meanwhile\n");
    expect(await lab.sh("balancer", "sysctl -n net.core.somaxconn")).toBe("5000\n");
  });

  test("convey cleanup leaves what --fix has set, which --undo takes back", async () => {
    await lab.sh("balancer", "sysctl -qw net.core.somaxconn=128");
    await examine(config("proxy"), ["--fix"]);
    expect((await lab.convey("balancer", ["cleanup"])).stdout).toBe("nothing to clean up\n");
    expect(await lab.sh("balancer", "sysctl -n net.core.somaxconn")).toBe("4096\n");
    expect((await lab.convey("balancer", ["doctor", "--undo"])).stdout).toBe(
      "set net.core.somaxconn back to 128\n",
    );
  });

  test("finds a server that refuses connections, until something listens there", async () => {
    await server.stop("SIGKILL");
    const broken = troubles((await examine(PASSTHROUGH)).findings);
    expect(broken).toMatchObject([{ check: "servers", subject: "app/one", severity: "error" }]);
    expect(broken[0]?.evidence).toBe("TCP connect to 10.2.0.2:80: ECONNREFUSED");
    expect(broken[0]?.remedy).toMatch(
      /^on the server: start what listens on port 80 .* backends\.app\.servers\.one\.weight = 0$/,
    );
    server = await serve(lab);
    expect(troubles((await examine(PASSTHROUGH)).findings)).toEqual([]);
  });

  test.each(["passthrough", "proxy"])(
    "finds a program that has the listening address, until it ends, mode %s",
    async (mode) => {
      const toml = config(mode);
      await using other = start(
        lab.at(
          "balancer",
          process.execPath,
          "-e",
          'require("node:net").createServer().listen(80, () => console.log("up"))',
        ),
      );
      await other.waitFor(/up/);
      const broken = troubles((await examine(toml)).findings);
      expect(broken).toMatchObject([
        { check: "listeners", subject: "web", severity: mode === "proxy" ? "error" : "warning" },
      ]);
      expect(broken[0]?.evidence).toBe("/proc/net/tcp: a socket at [::]:80");
      expect(await lab.sh("balancer", broken[0]?.remedy ?? "")).toContain(`pid=${other.pid}`);
      await other.stop("SIGKILL");
      expect(troubles((await examine(toml)).findings)).toEqual([]);
    },
  );

  test("finds ports towards a server that run out, counts them, and --fix and --undo move the range", async () => {
    const toml = config("proxy");
    await lab.sh("balancer", 'sysctl -qw net.ipv4.ip_local_port_range="40000 40019" net.ipv4.tcp_tw_reuse=0');
    // Whoever closes first keeps the port.
    const script = `const { connect } = require("node:net"); let n = 0;
      const next = () => { if (n++ === 17) return; connect(80, "10.2.0.2").on("connect", function () { this.end(); }).on("close", next).resume(); }; next();`;
    await lab.sh("balancer", `${process.execPath} -e '${script}'`);
    const broken = troubles((await examine(toml)).findings);
    expect(broken).toMatchObject([{ check: "time_wait", severity: "warning", subject: "app/one" }]);
    expect(broken[0]?.evidence).toMatch(
      /1[678] of 20 ports are in use towards 10\.2\.0\.2:80, 1[678] of them by connections that have ended/,
    );
    await fixAndUndoRange(toml, broken);
    await lab.remedy("balancer", broken[0]?.remedy ?? "");
    expect(troubles((await examine(toml)).findings)).toEqual([]);
  });

  async function fixAndUndoRange(toml: string, broken: Finding[]): Promise<void> {
    const before = await values(broken);
    expect((await examine(toml, ["--fix"])).fixed).toHaveLength(2);
    expect(await values(broken)).toMatch(/1024\s65535/);
    await lab.convey("balancer", ["doctor", "--undo"]);
    expect(await values(broken)).toBe(before);
  }

  test("finds NAT ports that somebody took off the reserved ones under a running balancer; --fix reserves them", async () => {
    const file = lab.file(PASSTHROUGH);
    await using balancer = start(lab.env("balancer", "convey", "run", "-c", file));
    await balancer.waitFor(/is ready/, 20_000);
    expect(troubles((await examine(PASSTHROUGH)).findings)).toEqual([]);
    const privileges = (await examine(PASSTHROUGH)).findings.find(({ check }) => check === "privileges");
    expect(privileges).toMatchObject({ severity: "ok" });
    expect(privileges?.evidence).toMatch(
      new RegExp(`in /proc/${balancer.pid}/status, the running balancer$`),
    );
    const other = await examine(
      PASSTHROUGH.replace("[passthrough]", '[log]\nlevel = "warn"\n[passthrough]'),
      [],
      [],
      "other",
    );
    const second = troubles(other.findings).find(({ check }) => check === "listeners");
    expect(second).toMatchObject({ severity: "error", title: "another convey serves tcp 10.1.0.1:80" });
    expect(second?.remedy).toBe(`kill -TERM ${balancer.pid}`);

    await lab.sh("balancer", "echo > /proc/sys/net/ipv4/ip_local_reserved_ports");
    const broken = troubles((await examine(PASSTHROUGH)).findings);
    expect(broken).toMatchObject([
      { check: "ports", severity: "error", subject: "net.ipv4.ip_local_reserved_ports" },
    ]);
    expect(broken[0]?.evidence).toBe(
      "net.ipv4.ip_local_reserved_ports is empty; passthrough.port_range is 33768-61000",
    );
    const { fixed, findings } = await examine(PASSTHROUGH, ["--fix"]);
    expect(fixed).toEqual(["sysctl -w net.ipv4.ip_local_reserved_ports=33768-61000"]);
    expect(troubles(findings)).toEqual([]);
    // What a balancer needs stays while it runs, and goes with it.
    await lab.convey("balancer", ["doctor", "--undo"]);
    expect(troubles((await examine(PASSTHROUGH)).findings)).toEqual([]);
    await balancer.stop();
    expect(await lab.sh("balancer", "cat /proc/sys/net/ipv4/ip_local_reserved_ports")).toBe("\n");
  });

  test("finds that a place is no BPF file system, and is content once one is mounted there", async () => {
    const place = `${lab.folder}/other`;
    const at = ["env", `CONVEY_BPFFS=${place}`];
    const broken = troubles((await examine(PASSTHROUGH, [], at)).findings);
    expect(broken).toMatchObject([{ check: "bpffs", severity: "warning", subject: place }]);
    expect(broken[0]?.evidence).toBe(`/proc/self/mounts: ${place} is no mount`);
    // Outside of `ip netns exec`, which ends its own view of mounts.
    await lab.mount(broken[0]?.remedy ?? "");
    expect(troubles((await examine(PASSTHROUGH, [], at)).findings)).toEqual([]);
    await lab.mount(`umount ${place}`);
  });

  test("without privileges it names those that are missing, and the engine that is left", async () => {
    const without = ["setpriv", "--bounding-set", "-bpf,-sys_admin,-perfmon,-net_raw"];
    const broken = troubles((await examine(PASSTHROUGH, [], without)).findings);
    const [privileges, kernel] = broken;
    expect(privileges).toMatchObject({ check: "privileges", severity: "error" });
    expect(privileges?.title).toBe("CAP_NET_RAW and CAP_BPF are missing");
    expect(privileges?.evidence).toMatch(/^CapEff [0-9a-f]+ in \/proc\/self\/status$/);
    expect(privileges?.remedy).toContain("setcap cap_net_raw,cap_bpf+ep");
    expect(kernel).toMatchObject({
      check: "kernel",
      severity: "warning",
      title: "programs for the kernel are refused",
    });
    expect(kernel?.evidence).toMatch(/EPERM|not permitted/i);
    const engine = (await examine(PASSTHROUGH, [], without)).findings.find(({ check }) => check === "engine");
    expect(engine).toMatchObject({ severity: "ok", title: "engine af_packet" });
    expect(engine?.evidence).toContain("not tc: ");
  });

  test("what cannot be looked at is told as not checked, with what it needs, and is never fine", async () => {
    const hide = "mount -t tmpfs none /usr/sbin; mount -t tmpfs none /sbin";
    const bare = ["unshare", "-m", "sh", "-ec", `${hide}; PATH=${await lab.bare()}; exec "$@"`, "sh"];
    const { findings } = await examine(PASSTHROUGH, [], bare);
    const unchecked = findings.filter(({ checked }) => !checked);
    expect(unchecked.map(({ check }) => check)).toEqual(
      expect.arrayContaining(["offloads", "arp", "mtu", "neighbours"]),
    );
    expect(unchecked.find(({ check }) => check === "offloads")).toMatchObject({
      severity: "notice",
      title: "not checked: needs the command ethtool (package ethtool)",
    });
    expect(findings.filter(({ check, severity }) => check === "mtu" && severity === "ok")).toEqual([]);
  });

  test("names the interface without native XDP where XDP was asked for by name", async () => {
    await lab.sh("balancer", "ip link add br0 type bridge; ip link set br0 up");
    const broken = troubles((await examine(PASSTHROUGH, ["--engine=xdp"])).findings);
    expect(broken).toMatchObject([
      { check: "engine", subject: "br0", severity: "warning", remedy: 'engine = "tc"' },
    ]);
    expect(broken[0]?.evidence).toContain("netlink xdp_features of br0");
    expect(troubles((await examine(PASSTHROUGH, ["--engine=tc"])).findings)).toEqual([]);
  });

  test("tells what a start would refuse: with method l2 a server behind a router", async () => {
    const toml = config("dsr", { top: ["[dsr]", 'method = "l2"'] }).replace("10.2.0.2:80", "10.9.0.2:80");
    const broken = (await examine(toml)).findings.find(({ check }) => check === "engine");
    expect(broken).toMatchObject({ severity: "error", title: "this host cannot serve the configuration" });
    expect(broken?.evidence).toContain("10.9.0.2 is behind the router 10.1.0.2");
    expect(broken?.remedy).toContain("rewrite");
  });

  test("finds too few file descriptors, and no more once the limit is raised", async () => {
    const toml = config("proxy", { more: ["[limits]", "max_connections = 1000"] });
    const low = ["prlimit", "--nofile=200:200"];
    const broken = troubles((await examine(toml, [], low)).findings);
    expect(broken).toMatchObject([{ check: "descriptors", severity: "warning", remedy: "ulimit -n 4096" }]);
    expect(broken[0]?.evidence).toMatch(
      /^\/proc\/self\/limits: Max open files 200, hard limit 200; the limit of 200 open files/,
    );
    // Raising what a process of its own has lowered for good takes another privilege.
    const raised = ["sh", "-ec", `${broken[0]?.remedy}; exec "$@"`, "sh"];
    expect(troubles((await examine(toml, [], raised)).findings)).toEqual([]);
  });

  describe("in dsr mode", () => {
    const dsr = (method: string, ...more: string[]) =>
      config("dsr", {
        top: ["[dsr]", `method = "${method}"`, "[passthrough]", "connection_tracker_capacity = 4096"],
        more,
      });

    test("finds that one server is to answer for two addresses, which method l2 can", async () => {
      const broken = troubles((await examine(dsr("rewrite", ...SPARE))).findings);
      expect(broken).toMatchObject([{ check: "reach", severity: "error", subject: "10.2.0.2:80" }]);
      expect(broken[0]?.evidence).toContain("Server 10.2.0.2:80 is to answer for 10.1.0.1 and 10.1.0.9");
      expect(broken[0]?.remedy).toMatch(/^dsr\.method = "l2"$/);
      expect(troubles((await examine(dsr("l2", ...SPARE))).findings)).toEqual([]);
    });

    test("finds a listening address that is the balancer's only one on the servers' link", async () => {
      const toml = dsr("l2").replace("10.1.0.1:80", "10.2.0.1:80");
      const broken = troubles((await examine(toml)).findings);
      expect(broken).toMatchObject([{ check: "reach", severity: "error", subject: "bk0" }]);
      expect(broken[0]?.evidence).toContain("bk0 has no address but those of frontends");
      await lab.remedy("balancer", (broken[0]?.remedy ?? "").replace(/<.*>/, "10.2.0.9"));
      expect(troubles((await examine(toml)).findings)).toEqual([]);
    });
  });

  test("people read one line for what is well, and evidence, consequence and remedy for the rest", async () => {
    await lab.sh("balancer", "sysctl -qw net.core.somaxconn=128");
    const file = lab.file(config("proxy"));
    const shown = await lab.convey("balancer", ["doctor", "-c", file]);
    expect(shown).toMatchObject({ code: 0, stderr: "" });
    expect(shown.stdout).toContain(
      "ok       privileges: the capabilities that the mode needs are there (CapEff ",
    );
    expect(shown.stdout).toContain(
      [
        "warning  backlog: net.core.somaxconn is small",
        "         read: net.core.somaxconn is 128",
        "         so:   In a burst connections beyond it are dropped, and clients try again after a second.",
        `         do:   sysctl -w net.core.somaxconn=4096   (or: convey doctor --fix -c ${file})`,
      ].join("\n"),
    );
    const fixed = await lab.convey("balancer", ["doctor", "--fix", "-c", file]);
    expect(fixed.stdout).toMatch(
      /^fixed {4}sysctl -w net\.core\.somaxconn=4096\n +`convey doctor --undo` takes it back\n/,
    );
    await lab.convey("balancer", ["doctor", "--undo"]);
  });

  test("--fix and --undo at once are a usage error, an invalid configuration an error", async () => {
    expect((await lab.convey("balancer", ["doctor", "--fix", "--undo"])).code).toBe(2);
    const invalid = await lab.convey("balancer", ["doctor", "-c", lab.file("mode = 1", "invalid")]);
    expect(invalid.code).toBe(1);
    expect(invalid.stderr).toContain("mode");
    const shown = await lab.convey("balancer", ["doctor", "--json", "-c", lab.file("mode = 1", "invalid")]);
    expect(JSON.parse(shown.stdout)).toMatchObject({
      ok: false,
      findings: [],
      problems: expect.arrayContaining([expect.objectContaining({ path: "mode" })]),
    });
  });
});
