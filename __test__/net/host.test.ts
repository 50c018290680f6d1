/** What a packet mode does to the host, through the command line: shown, done, refused twice, and undone. */
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { Product } from "../support/convey.ts";
import { CONVEY } from "../support/peers.ts";
import { finish, start, until } from "../support/processes.ts";
import { sampleFile } from "../support/samples.ts";
import { engine, isInKernel } from "./engines.ts";
import { onSegment, type Segment, VIPS } from "./lab/segment.ts";

const FILE = sampleFile("passthrough");
const RESERVED = "cat /proc/sys/net/ipv4/ip_local_reserved_ports";

/** Everything of a namespace that the packet modes may touch. */
const STATE = `
  ${RESERVED}; nft list ruleset; ip addr show; tc qdisc show; tc filter show dev eth0 ingress
  cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/rp_filter`;

describe("the host in passthrough mode", () => {
  let segment: Segment;
  onSegment(["tc", "nft", "setpriv"], (standing) => {
    segment = standing;
  });

  const convey = (...args: string[]) => segment.balancer(process.execPath, CONVEY, ...args);

  test("--dry-run prints what a start does, as lines a shell takes, and changes nothing", async () => {
    const before = await segment.sh("balancer", STATE);
    const shown = await finish(convey("run", "--dry-run", "-c", FILE));
    expect(shown).toMatchObject({ code: 0, stderr: "" });
    expect(shown.stdout).toContain(`# engine ${engine()} forwards 10.0.0.1:80, 10.0.0.3:80 on eth0\n`);
    expect(await segment.sh("balancer", STATE)).toBe(before);

    const product = await segment.run(FILE);
    const reserved = await segment.sh("balancer", RESERVED);
    await product.process.stop();
    expect(shown.stdout).toContain(`sysctl -w net.ipv4.ip_local_reserved_ports=${reserved.trim()}\n`);

    await segment.sh("balancer", shown.stdout);
    const ruleset = await segment.sh("balancer", "nft list ruleset");
    // A program that decides itself leaves the kernel nothing to answer.
    if (isInKernel()) expect(ruleset).toBe("");
    else for (const vip of VIPS) expect(ruleset).toContain(`tcp . ${vip} . 80`);
    expect(await segment.sh("balancer", RESERVED)).toBe(reserved);
  });

  test("SIGTERM leaves everything as it was found", async () => {
    await segment.sh("balancer", "sysctl -qw net.ipv4.ip_local_reserved_ports=40000,50000-50010");
    const before = await segment.sh("balancer", STATE);
    const product = await segment.run(FILE);
    expect(await segment.sh("balancer", RESERVED)).toContain("33768-61000");
    expect(await segment.ask(VIPS[0])).toMatch(/^10\.0\.0\.1[1-4] /);
    expect(await product.process.stop()).toMatchObject({ code: 0 });
    expect(product.process.stderr).toContain("host: gave back the reserved ports");
    expect(await segment.sh("balancer", STATE)).toBe(before);
  });

  test("after SIGKILL `convey cleanup` takes back what is ours, and says so once", async () => {
    const before = await segment.sh("balancer", STATE);
    const product = await segment.run(FILE);
    await product.process.stop("SIGKILL");
    expect(await segment.sh("balancer", RESERVED)).toContain("33768-61000");
    const first = await finish(convey("cleanup"));
    expect(first).toMatchObject({ code: 0 });
    expect(first.stdout).toMatch(
      /gave back the reserved ports 33768-61000 \(of process \d+, which is gone\)/,
    );
    expect(await segment.sh("balancer", STATE)).toBe(before);
    expect((await finish(convey("cleanup"))).stdout).toBe("nothing to clean up\n");
  });

  test("a program that exits without close() leaves nothing behind", async () => {
    const before = await segment.sh("balancer", STATE);
    const entry = new URL("../../dist/index.js", import.meta.url).href;
    const program = `
      const { createBalancer } = await import(${JSON.stringify(entry)});
      const lb = await createBalancer({ configFile: ${JSON.stringify(FILE)} });
      console.log((await lb.explain("tcp", "10.0.0.2:1", "10.0.0.1:80")).verdict);
      process.exit(0);`;
    const ran = await finish(segment.balancer(process.execPath, "--input-type=module", "-e", program));
    expect(ran).toMatchObject({ code: 0, stdout: "forward\n" });
    expect(await segment.sh("balancer", STATE)).toBe(before);
  });

  test("a second instance is refused by the address and the process that has it; the first serves on", async () => {
    await using first = await segment.run(FILE);
    const second = await finish(convey("-c", FILE, "--stats-port=0"));
    expect(second.code).toBe(1);
    expect(second.stderr).toMatch(
      /another convey already serves tcp 10\.0\.0\.[13]:80 here \(process \d+\); stop it first/,
    );
    expect(second.stderr).not.toContain("try:");
    expect(await segment.ask(VIPS[0])).toMatch(/^10\.0\.0\.1[1-4] /);
    expect((await first.stats()).packets?.dropped).toEqual({});
  });

  test("without privilege there is one error with the remedy", async () => {
    const plain = ["setpriv", "--reuid", "65534", "--clear-groups", process.execPath, CONVEY, "-c", FILE];
    const { code, stderr } = await finish(segment.at("balancer", ...plain));
    expect(code).toBe(1);
    expect(stderr).toMatch(/^convey: passthrough mode needs CAP_NET_RAW and CAP_NET_ADMIN, .*run it as root/);
    expect(stderr.trimEnd().split("\n")).toHaveLength(1);
  });

  test("once it serves, no thread keeps a capability that a reload or the end does not need", async () => {
    await using product = await segment.run(FILE);
    const kept = threads(product).map(capabilities);
    expect(kept.length).toBeGreaterThan(5);
    // CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_BPF; CAP_NET_RAW and CAP_IPC_LOCK for sockets of an interface that comes.
    const sockets = engine() === "af_xdp" ? (1n << 13n) | (1n << 14n) : 0n;
    const allowed = (1n << 10n) | (1n << 12n) | (1n << 39n) | sockets;
    for (const sets of kept) {
      for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]) {
        expect((sets.get(set) ?? -1n) & ~allowed, set).toBe(0n);
      }
    }
    expect(await segment.ask(VIPS[0])).toMatch(/^10\.0\.0\.1[1-4] /);
    product.process.child.kill("SIGHUP");
    await product.process.waitFor(/reload: /);
    expect(await product.process.stop()).toMatchObject({ code: 0 });
    expect(await segment.sh("balancer", RESERVED)).toBe("\n");
  });

  test("a library keeps its program's capabilities", async () => {
    const entry = new URL("../../dist/index.js", import.meta.url).href;
    const program = `
      const { createBalancer } = await import(${JSON.stringify(entry)});
      await createBalancer({ configFile: ${JSON.stringify(FILE)} }, { keepAlive: true });
      console.log("ready");`;
    await using library = start(segment.balancer(process.execPath, "--input-type=module", "-e", program));
    await library.waitFor(/ready/);
    const pid = await until(() => library.pid, "pid");
    const before = capabilities("/proc/self/status");
    expect(capabilities(`/proc/${pid}/status`).get("CapEff")).toBe(before.get("CapEff"));
  });
});

function threads(product: Product): string[] {
  const folder = `/proc/${product.process.pid}/task`;
  return readdirSync(folder).map((tid) => `${folder}/${tid}/status`);
}

function capabilities(status: string): Map<string, bigint> {
  const lines = readFileSync(status, "utf8").matchAll(/^(Cap\w+):\s*([0-9a-f]+)$/gm);
  return new Map([...lines].map(([, name = "", hex = ""]) => [name, BigInt(`0x${hex}`)]));
}
