/**
 * Checks on recorded hosts: what cannot be broken in a namespace. Files and outputs are in the form in which
 * kernel and tools print them; those of ethtool are a virtio card's, with one word changed.
 */
import { describe, expect, test } from "vitest";
import { clock } from "../../../ts/doctor/checks/clock.ts";
import { conntrack } from "../../../ts/doctor/checks/conntrack.ts";
import { drivers } from "../../../ts/doctor/checks/drivers.ts";
import { kernel } from "../../../ts/doctor/checks/kernel.ts";
import { memory } from "../../../ts/doctor/checks/memory.ts";
import { namespace } from "../../../ts/doctor/checks/namespace.ts";
import { offloads } from "../../../ts/doctor/checks/offloads.ts";
import { ports } from "../../../ts/doctor/checks/ports.ts";
import { programs } from "../../../ts/doctor/checks/programs.ts";
import { queues } from "../../../ts/doctor/checks/queues.ts";
import type { Found } from "../../../ts/doctor/finding.ts";
import type { Check, Look } from "../../../ts/doctor/look.ts";
import { findRunning } from "../../../ts/doctor/running.ts";
import { CARD, look, type Recording } from "./recorded.ts";

async function bad(check: Check, at: Look): Promise<Found[]> {
  return (await check.find(at)).filter(({ severity }) => severity !== "ok");
}

/** `ethtool -k` of a virtio card, shortened. */
const ETHTOOL = `Features for eth0:
rx-checksumming: on [fixed]
tx-checksumming: on
	tx-checksum-ip-generic: on
scatter-gather: on
tcp-segmentation-offload: on
generic-segmentation-offload: on
generic-receive-offload: on
large-receive-offload: off [fixed]
`;
const offload = (text: string): Recording => ({ commands: { "ethtool -k eth0": text } });

describe("offloads of a card", () => {
  test("are fine as cards have them", async () => {
    expect(await bad(offloads, look(offload(ETHTOOL)))).toEqual([]);
  });

  test("LRO is found, with the command that ends it", async () => {
    const on = ETHTOOL.replace("large-receive-offload: off [fixed]", "large-receive-offload: on");
    expect(await bad(offloads, look(offload(on)))).toMatchObject([
      {
        severity: "warning",
        subject: "eth0",
        evidence: "ethtool -k eth0: large-receive-offload on",
        remedy: "ethtool -K eth0 lro off",
      },
    ]);
  });

  test("GRO that is off is found", async () => {
    const off = ETHTOOL.replace("generic-receive-offload: on", "generic-receive-offload: off");
    expect(await bad(offloads, look(offload(off)))).toMatchObject([
      {
        severity: "notice",
        evidence: "ethtool -k eth0: generic-receive-offload off",
        remedy: "ethtool -K eth0 gro on",
      },
    ]);
  });
});

describe("queues of a card", () => {
  const folder = "/sys/class/net/eth0/queues";
  const files = {
    [`${folder}/rx-0/rps_cpus`]: "0\n",
    [`${folder}/tx-0/xps_cpus`]: "0\n",
    "/sys/devices/system/cpu/online": "0-3,6\n",
  };

  test("one for several cores is found", async () => {
    expect(await bad(queues, look({ files }))).toMatchObject([
      {
        severity: "notice",
        evidence: `${folder} has 1 receive queue, rps_cpus 0; 5 cores are online`,
        remedy: `ethtool -L eth0 combined 5 || echo 1f > ${folder}/rx-0/rps_cpus`,
      },
    ]);
  });

  test.each([
    ["two of them", { ...files, [`${folder}/rx-1/rps_cpus`]: "0\n" }],
    ["packets spread by software", { ...files, [`${folder}/rx-0/rps_cpus`]: "1f\n" }],
    ["a single core", { ...files, "/sys/devices/system/cpu/online": "0\n" }],
  ])("fine: %s", async (_, changed) => {
    expect(await bad(queues, look({ files: changed }))).toEqual([]);
  });
});

test("an MTU that keeps a card with native XDP from engine xdp is found", async () => {
  const links = [{ ...CARD, mtu: 9000 }];
  expect(await bad(drivers, look({}, { report: { links } }))).toMatchObject([
    { severity: "notice", subject: "eth0", remedy: "ip link set dev eth0 mtu 3498" },
  ]);
  expect(await bad(drivers, look({}))).toEqual([]);
});

describe("the kernel", () => {
  const files = { "/proc/sys/kernel/osrelease": "6.8.0-41-generic\n" };
  const sysctl = (path: string, value: string) => ({
    files: { ...files, [`/proc/sys/${path}`]: `${value}\n` },
  });

  test("is fine as it comes", async () => {
    const at = look({
      files: {
        ...sysctl("net/core/bpf_jit_enable", "1").files,
        ...sysctl("kernel/unprivileged_bpf_disabled", "2").files,
      },
    });
    expect(await bad(kernel, at)).toEqual([]);
  });

  test.each([
    ["net/core/bpf_jit_enable", "warning", "sysctl -w net.core.bpf_jit_enable=1"],
    ["kernel/unprivileged_bpf_disabled", "notice", "sysctl -w kernel.unprivileged_bpf_disabled=2"],
  ])("%s = 0 is found", async (path, severity, remedy) => {
    const [found, ...others] = await bad(kernel, look(sysctl(path, "0")));
    expect(others).toEqual([]);
    expect(found).toMatchObject({ severity, remedy, evidence: `${path.replaceAll("/", ".")} is 0`, fix: [] });
  });

  test("that refuses programs by lockdown is found", async () => {
    const recording = {
      files: { ...files, "/sys/kernel/security/lockdown": "none integrity [confidentiality]\n" },
      kernel: { bpfRefused: "Operation not permitted (os error 1)" },
    };
    expect(await bad(kernel, look(recording))).toMatchObject([
      {
        severity: "warning",
        remedy: "boot without lockdown=confidentiality",
        evidence: "loading one: Operation not permitted (os error 1); kernel lockdown: confidentiality",
      },
    ]);
  });

  test("that is too old is found", async () => {
    const [found] = await bad(
      kernel,
      look({ files: { "/proc/sys/kernel/osrelease": "5.4.0-190-generic\n" } }),
    );
    expect(found).toMatchObject({
      severity: "warning",
      evidence: expect.stringMatching(/^Linux 5\.4\.0-190-generic; /),
    });
  });
});

describe("the kernel's connection table", () => {
  const at = (count: number) =>
    look({
      files: {
        "/proc/sys/net/netfilter/nf_conntrack_count": `${count}\n`,
        "/proc/sys/net/netfilter/nf_conntrack_max": "65536\n",
      },
    });

  test("is found nearly full, and fine with room or absent", async () => {
    expect(await bad(conntrack, at(60_000))).toMatchObject([
      {
        severity: "warning",
        evidence: "net.netfilter.nf_conntrack_count is 60000, net.netfilter.nf_conntrack_max is 65536",
        remedy: "sysctl -w net.netfilter.nf_conntrack_max=262144",
      },
    ]);
    expect(await bad(conntrack, at(100))).toEqual([]);
    expect(await bad(conntrack, look({}))).toEqual([]);
  });
});

describe("memory for the flow tables", () => {
  const meminfo = (kb: number) => ({
    "/proc/meminfo": `MemTotal:       24610000 kB\nMemAvailable:   ${kb} kB\n`,
  });

  test("is fine where there is enough", async () => {
    expect(await bad(memory, look({ files: meminfo(2_000_000) }))).toEqual([]);
  });

  test("too little is found, with a capacity that fits", async () => {
    const [found] = await bad(memory, look({ files: meminfo(60_000) }));
    expect(found).toMatchObject({
      severity: "error",
      remedy: "passthrough.connection_tracker_capacity = 524288",
    });
    expect(found?.evidence).toBe(
      "connection_tracker_capacity 1048576 at 66 bytes a flow, with NAT ports and rings: 66 MiB; /proc/meminfo: MemAvailable 59 MiB",
    );
    const smaller = { passthrough: { connection_tracker_capacity: 524288 } };
    expect(await bad(memory, look({ files: meminfo(60_000) }, { config: smaller }))).toEqual([]);
  });

  test.each([
    [
      "2",
      "0::/system.slice/convey.service\n",
      "/sys/fs/cgroup/system.slice/memory.max",
      "/sys/fs/cgroup/system.slice/memory.current",
    ],
    [
      "1",
      "4:cpu,memory:/docker/1\n0::/\n",
      "/sys/fs/cgroup/memory/memory.limit_in_bytes",
      "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ],
  ])("a limit of a control group counts, version %s", async (_, groups, limit, used) => {
    const files = {
      ...meminfo(2_000_000),
      "/proc/self/cgroup": groups,
      [limit]: "100663296\n",
      [used]: "20971520\n",
    };
    const [found] = await bad(memory, look({ files }));
    expect(found).toMatchObject({ severity: "warning" });
    expect(found?.evidence).toContain(`${limit} leaves 76 MiB`);
  });
});

describe("the clock", () => {
  const source = (name: string) => ({
    "/sys/devices/system/clocksource/clocksource0/current_clocksource": `${name}\n`,
    "/sys/devices/system/clocksource/clocksource0/available_clocksource": "tsc hpet acpi_pm \n",
  });

  test("is fine where it is kept right", async () => {
    expect(await bad(clock, look({ files: source("tsc") }))).toEqual([]);
  });

  test("that nothing keeps right is found", async () => {
    expect(await bad(clock, look({ kernel: { clockSynchronized: false } }))).toMatchObject([
      { severity: "notice", evidence: "adjtimex: STA_UNSYNC is set" },
    ]);
  });

  test("that jumps is found", async () => {
    expect(await bad(clock, look({ stepMs: 2000 }))).toMatchObject([
      { severity: "warning", title: "the clock jumps", evidence: expect.stringContaining("2000 ms apart") },
    ]);
  });

  test("that is slow to read is found", async () => {
    expect(await bad(clock, look({ files: source("hpet") }))).toMatchObject([
      {
        severity: "notice",
        remedy: "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource",
      },
    ]);
  });
});

test("a balancer that runs in another network namespace is found, with the way there; nothing is said of its ports", async () => {
  const at = look({
    files: {
      "/proc/sys/kernel/random/boot_id": "this-boot\n",
      "/run/convey/balancer_70_0_0.json": JSON.stringify({
        ...{ boot: "this-boot", pid: 70, frontends: ["tcp 10.0.0.1:80"] },
      }),
    },
    links: { "/proc/self/ns/net": "net:[1]", "/proc/70/ns/net": "net:[2]" },
  });
  const running = await findRunning(at.host, at.config, async () => ({ engine: "tc" }));
  expect(running).toEqual({ pid: undefined, engine: "tc", elsewhere: 70 });
  expect(await bad(namespace, { ...at, running })).toMatchObject([
    {
      severity: "error",
      evidence: "/proc/70/ns/net is net:[2], /proc/self/ns/net net:[1]",
      remedy: "run this command by: nsenter -t 70 -n",
    },
  ]);
  expect((await bad(ports, { ...at, running })).map(({ title }) => title)).not.toContainEqual(
    expect.stringContaining("not reserved"),
  );
  expect(await bad(namespace, at)).toEqual([]);
});

test("IPVS with the same service is found", async () => {
  const table = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A000001:0050 rr
  -> 0A00000B:0050      Masq    1      0          0
`;
  const commands = { "ip -j -d link show": "[]", "nft -a list ruleset": "\n" };
  expect(await bad(programs, look({ files: { "/proc/net/ip_vs": table }, commands }))).toMatchObject([
    {
      severity: "warning",
      evidence: "/proc/net/ip_vs: TCP  0A000001:0050 rr",
      remedy: "ipvsadm -D -t 10.0.0.1:80",
    },
  ]);
  const other = table.replace("0A000001:0050", "0A000001:01BB");
  expect(await bad(programs, look({ files: { "/proc/net/ip_vs": other }, commands }))).toEqual([]);
});

test("what an ordinary user may not list is told as not checked", async () => {
  const links = [{ ...CARD, tcxPrograms: undefined }] as unknown as [typeof CARD];
  const at = look({ commands: { "ip -j -d link show": "[]" } }, { report: { links } });
  expect(await programs.find(at)).toMatchObject([
    { checked: false, title: "not checked: needs CAP_NET_ADMIN and Linux 6.6, to list programs at TCX" },
    { checked: false, title: "not checked: needs root, to list packet filter rules by nft" },
  ]);
  await expect(look({}).network.links()).rejects.toThrow("not checked: needs an ip command that works here");
});
