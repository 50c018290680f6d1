/** The product in a packet lab: the command line with a configuration file, in the balancer's namespace. */
import { mkdtemp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { aroundAll, beforeEach } from "vitest";
import type { PacketStats, Stats } from "../../../ts/index.ts";
import { type Product, runConvey } from "../../support/convey.ts";
import { until } from "../../support/processes.ts";
import { lacking } from "../../support/requirements.ts";
import { engine } from "../engines.ts";
import { answerAsVip, holdVip } from "./dsr.ts";
import { type Arms, FAMILIES, type LabOptions, PacketLab, SERVERS } from "./lab.ts";
import { cleanUp, mountPins, noting } from "./left.ts";
import { XDP_TOOLS } from "./other-end.ts";
import { HTTP, Services, SINK, TOOLS } from "./servers.ts";
import { TALK, TalkServers } from "./talk.ts";

/** Passthrough, and both methods of direct server return. */
export type Method = "passthrough" | "rewrite" | "l2";

export interface Settings {
  method: Method;
  /** Weight of servers that have another than 1; null leaves the server out. */
  weights?: Partial<Record<(typeof SERVERS)[number], number | null>>;
  workers?: number;
  capacity?: number;
  /** `dsr.connection_tracking`. */
  tracking?: "full" | "minimal";
  /** `passthrough.port_range`. */
  ports?: string;
  /** Frontends that are left out, with their backends. */
  without?: readonly string[];
  /** Another than the one the tests are for. */
  engine?: string;
  /** `shutdown.keep_forwarding`. */
  keepForwarding?: boolean;
  /** Lines before the first table. */
  top?: readonly string[];
}

/** Frontends `http`, `sink`, `talk` and `talk_udp` over both families, `_v4` and `_v6`, each with a backend of that name. */
export function configuration(lab: PacketLab, settings: Settings): string {
  const services = [
    ["http", HTTP, "tcp"],
    ["sink", SINK, "tcp"],
    ["talk", TALK, "tcp"],
    ["talk_udp", TALK, "udp"],
  ] as const;
  const lines = [
    `mode = "${settings.method === "passthrough" ? "passthrough" : "dsr"}"`,
    `engine = "${settings.engine ?? engine()}"`,
    ...(settings.top ?? []),
    "[passthrough]",
    `workers = ${settings.workers ?? 2}`,
    `connection_tracker_capacity = ${settings.capacity ?? 65_536}`,
    ...(settings.ports === undefined ? [] : [`port_range = "${settings.ports}"`]),
    // In DSR the server's FIN is not seen: a flow that both sides ended is waited for as long.
    "timeouts.dsr_fin_ms = 1500",
    ...(settings.method === "passthrough" ? [] : ["[dsr]", `method = "${settings.method}"`]),
    ...(settings.tracking === undefined ? [] : [`connection_tracking = "${settings.tracking}"`]),
    "[shutdown]",
    "drain_timeout_ms = 5000",
    ...(settings.keepForwarding ? ["keep_forwarding = true"] : []),
    "[stats]",
    "port = 0",
  ];
  for (const [name, port, protocol] of services) {
    for (const family of FAMILIES) {
      if (settings.without?.includes(`${name}_${family}`)) continue;
      lines.push(
        `[frontends.${name}_${family}]`,
        `listen_addr = "${PacketLab.socket(lab.vip(family), port)}"`,
        `backend = "${name}_${family}"`,
        `protocol = "${protocol}"`,
        `[backends.${name}_${family}]`,
        "health_check_interval = 1",
        "health_check_fast_interval_ms = 200",
        "health_check_timeout_ms = 800",
        // What servers are asked for at their own addresses is a warning unless it is said.
        ...(settings.method === "rewrite" || protocol === "udp" ? ['check = "address"'] : []),
      );
      for (const place of SERVERS) {
        const weight = settings.weights?.[place];
        if (weight === null) continue;
        lines.push(
          `[backends.${name}_${family}.servers.${place}]`,
          `addr = "${PacketLab.socket(lab.server(place, family), port)}"`,
          ...(weight === undefined ? [] : [`weight = ${weight}`]),
        );
      }
    }
  }
  return `${lines.join("\n")}\n`;
}

/** A lab with servers, prepared for a method; balancers come and go in it. */
export class Scene implements AsyncDisposable {
  readonly lab: PacketLab;
  readonly method: Method;
  readonly services: Services;
  readonly talkers: TalkServers;

  private constructor(lab: PacketLab, method: Method, services: Services, talkers: TalkServers) {
    this.lab = lab;
    this.method = method;
    this.services = services;
    this.talkers = talkers;
  }

  static async create(method: Method, options: LabOptions = {}): Promise<Scene> {
    const lab = await PacketLab.create(options);
    let services: Services | undefined;
    try {
      services = await Services.start(lab);
      await mountPins(services.folder);
      if (method === "l2") await holdVip(lab);
      if (method === "rewrite") await answerAsVip(lab, [HTTP, SINK, TALK]);
      return new Scene(lab, method, services, await TalkServers.start(lab, method === "l2"));
    } catch (error) {
      await services?.[Symbol.asyncDispose]();
      await lab.remove();
      throw error;
    }
  }

  configuration(settings: Partial<Settings> = {}): string {
    return configuration(this.lab, { method: this.method, ...settings });
  }

  /** Starts a balancer and waits until it is ready. `await using` ends it in order: a killed one leaves its flows to the next. */
  async balance(settings: Partial<Settings> = {}): Promise<Product> {
    return this.run(this.configuration(settings));
  }

  /** As `balance`, with this configuration. */
  async run(toml: string): Promise<Product> {
    const product = await runConvey(await this.file(toml), this.prefix());
    return { ...product, [Symbol.asyncDispose]: () => end(product) };
  }

  /** Writes a configuration, alone in its folder. */
  async file(toml: string): Promise<string> {
    const file = join(await mkdtemp(join(this.services.folder, "balancer-")), "config.toml");
    await writeFile(file, toml, { mode: 0o600 });
    return file;
  }

  /** The words before the command line of a balancer: where it runs, and where it notes what it changes. */
  prefix(): string[] {
    return this.lab.at("balancer", ...noting(this.services.folder));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.talkers[Symbol.asyncDispose]();
    await cleanUp(this.prefix());
    await this.services[Symbol.asyncDispose]();
    await this.lab.remove();
  }
}

/** What a part of the suite is told: how the packets go, and where the scene is while its tests run. */
export interface Stage {
  method: Method;
  arms: Arms;
  /** Undefined where the machine lacks something: the tests are skipped. */
  scene: () => Scene | undefined;
}

/** Gives all tests of a block one scene: it stands before the first of them, and is gone after the last. */
export function stage(method: Method, arms: Arms, more: readonly string[] = []): Stage {
  const missing = lacking({ root: true, tools: [...TOOLS, ...XDP_TOOLS, ...more] });
  let scene: Scene | undefined;
  aroundAll(async (runTests) => {
    if (missing !== undefined) return runTests();
    await using standing = await Scene.create(method, { arms });
    scene = standing;
    await runTests();
  }, 60_000);
  beforeEach((context) => {
    if (missing !== undefined) context.skip(missing);
  });
  return { method, arms, scene: () => scene };
}

/** Ends a balancer in order, and at once: what still waits for its end has nothing to tell. */
export async function end({ process }: Product): Promise<void> {
  process.child.kill("SIGTERM");
  await Promise.race([process.exited, process.waitFor(/no new connections/).catch(() => undefined)]);
  await process.stop("SIGTERM", 8_000);
}

/** Puts another configuration in service and waits for it. */
export async function reconfigure(product: Product, toml: string): Promise<void> {
  const before = (await product.stats()).config_version;
  product.replace(toml);
  await until(
    async () => (await product.stats()).config_version > before,
    "the new configuration in service",
    10_000,
    () => product.process.output(),
  );
}

/** What became of packets. */
export function packets(stats: Stats): PacketStats["packets"] {
  if (stats.packets === undefined) throw new Error("no statistics of packets");
  return stats.packets;
}

/** How often something happened, whatever the verdict: `no_flow`, `tcp_reset`, `vlan`, … */
export function counted(stats: Stats, reason: string): number {
  const { replied, passed, dropped } = packets(stats);
  return (replied[reason] ?? 0) + (passed[reason] ?? 0) + (dropped[reason] ?? 0);
}

/** A counter of `/proc/net/snmp` in a namespace: `kernelCounter(lab, "balancer", "Tcp", "OutRsts")`. */
export async function kernelCounter(
  lab: PacketLab,
  place: Parameters<PacketLab["sh"]>[0],
  table: string,
  name: string,
): Promise<number> {
  const [head = "", values = ""] = (await lab.sh(place, `grep ^${table}: /proc/net/snmp`)).trim().split("\n");
  return Number(values.split(" ")[head.split(" ").indexOf(name)]);
}
