/**
 * A balancer with a client before it and a server behind it, each in a namespace, on which one thing at a time is broken:
 *
 *     client c0 ── fr0 balancer bk0 ── s0 server s1 ── far
 *
 * Sound as it stands: no error and no warning of the doctor's. The server's default route leads back by the balancer.
 */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Finding } from "../../../ts/doctor/finding.ts";
import { Lab } from "../../support/lab.ts";
import { CONVEY } from "../../support/peers.ts";
import { type Finished, finish, type Running, start, succeed } from "../../support/processes.ts";

export type Place = "client" | "balancer" | "server";

const LISTEN = `require("node:http").createServer((_, r) => r.end("ok")).listen(80, process.argv[1], () => console.log("up"));`;

/** The servers' program, on one address. */
export async function serve(lab: DoctorLab, address = "0.0.0.0"): Promise<Running> {
  const running = start(lab.at("server", process.execPath, "-e", LISTEN, address));
  await running.waitFor(/up/);
  return running;
}

export class DoctorLab extends Lab<Place> {
  readonly folder = mkdtempSync(join(tmpdir(), "convey-doctor-"));

  static async create(): Promise<DoctorLab> {
    const lab = new DoctorLab("cvdoc", ["client", "balancer", "server"]);
    const [client, balancer, server] = lab.namespaces();
    const set = (name: string | undefined, ...words: string[]) =>
      `ip netns exec ${name} sysctl -qw ${words.join(" ")}`;
    await lab.build([
      `ip link add fr0 netns ${balancer} type veth peer name c0 netns ${client}`,
      `ip link add bk0 netns ${balancer} type veth peer name s0 netns ${server}`,
      `ip link add s1 netns ${server} type veth peer name far netns ${client}`,
      `ip -n ${balancer} address add 10.1.0.1/24 dev fr0`,
      `ip -n ${balancer} address add 10.2.0.1/24 dev bk0`,
      `ip -n ${client} address add 10.1.0.2/24 dev c0`,
      `ip -n ${client} address add 10.3.0.1/24 dev far`,
      `ip -n ${server} address add 10.2.0.2/24 dev s0`,
      `ip -n ${server} address add 10.3.0.2/24 dev s1`,
      ...[
        [balancer, "fr0"],
        [balancer, "bk0"],
        [client, "c0"],
        [client, "far"],
        [server, "s0"],
        [server, "s1"],
      ].map(([name, device]) => `ip -n ${name} link set ${device} up`),
      `ip -n ${balancer} route add default via 10.1.0.2`,
      `ip -n ${server} route add default via 10.2.0.1`,
      set(
        balancer,
        "net.ipv4.conf.bk0.forwarding=1",
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.bk0.rp_filter=0",
      ),
      set(server, "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.s0.rp_filter=0"),
      set(server, "net.ipv4.conf.all.accept_redirects=0", "net.ipv4.conf.s0.accept_redirects=0"),
    ]);
    await succeed(["sh", "-ec", `mkdir ${lab.bpffs}; mount -t bpf bpf ${lab.bpffs}`]);
    // `convey` in remedies is found on the PATH, as on a host where it is installed.
    mkdirSync(join(lab.folder, "bin"));
    symlinkSync(CONVEY, join(lab.folder, "bin", "convey"));
    return lab;
  }

  get bpffs(): string {
    return join(this.folder, "bpf");
  }

  /** Writes a configuration; its path. */
  file(toml: string, name = "convey"): string {
    const path = join(this.folder, `${name}.toml`);
    writeFileSync(path, toml, { mode: 0o600 });
    return path;
  }

  /** The words before a command at a place: `convey` is found, and notes what it changes in the lab's folder. */
  env(place: Place, ...more: string[]): string[] {
    const path = `PATH=${join(this.folder, "bin")}:${process.env.PATH}`;
    const state = `CONVEY_STATE_DIR=${join(this.folder, `state-${place}`)}`;
    return this.at(place, "env", path, state, `CONVEY_BPFFS=${this.bpffs}`, ...more);
  }

  convey(place: Place, words: readonly string[], before: readonly string[] = []): Promise<Finished> {
    return finish([...this.env(place, ...before), process.execPath, CONVEY, ...words]);
  }

  /** Runs a remedy as it was printed. */
  async remedy(place: Place, text: string): Promise<void> {
    await succeed(this.env(place, "sh", "-ec", text));
  }

  /** Runs shell lines outside of the namespaces, where mounts stay. */
  async mount(lines: string): Promise<void> {
    await succeed(["sh", "-ec", lines]);
  }

  /** A folder with node alone, to be somebody's whole PATH. */
  async bare(): Promise<string> {
    const path = join(this.folder, "bare");
    mkdirSync(path, { recursive: true });
    symlinkSync(process.execPath, join(path, "node"));
    return path;
  }

  override async remove(): Promise<void> {
    await super.remove();
    await finish(["umount", "-l", this.bpffs]);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Findings that are not fine, without those that hang on the machine rather than on the lab. */
export function troubles(findings: readonly Finding[]): Finding[] {
  return findings.filter(({ severity, check }) => severity !== "ok" && check !== "clock");
}

/** The findings that one list has and the other lacks. */
export function beside(findings: readonly Finding[], before: readonly Finding[]): Finding[] {
  const key = ({ check, subject, title }: Finding): string => `${check} ${subject} ${title}`;
  const known = new Set(troubles(before).map(key));
  return troubles(findings).filter((finding) => !known.has(key(finding)));
}
