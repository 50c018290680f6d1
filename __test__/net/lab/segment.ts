/**
 * One segment as the samples picture it: a client, a balancer with two addresses, and four servers at 10.0.0.11
 * to 10.0.0.14, port 80, that answer with their own and the client's address, each in a namespace of its own.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { aroundEach, beforeEach } from "vitest";
import { type Product, runConvey } from "../../support/convey.ts";
import { Lab } from "../../support/lab.ts";
import { type Running, start, succeed } from "../../support/processes.ts";
import { lacking } from "../../support/requirements.ts";
import { cleanUp, mountPins, noting } from "./left.ts";
import { otherEnd, XDP_TOOLS } from "./other-end.ts";

export const CLIENT = "10.0.0.2";
/** The balancer's addresses, for each of which a wildcard stands. */
export const VIPS = ["10.0.0.1", "10.0.0.3"] as const;
export const SERVERS = ["10.0.0.11", "10.0.0.12", "10.0.0.13", "10.0.0.14"] as const;

/** Servers go by their address. */
export type Place = "client" | "balancer" | (typeof SERVERS)[number];
const PLACES: readonly Place[] = ["client", "balancer", ...SERVERS];

const SERVE = `
const { createServer } = require("node:http");
createServer(({ socket }, response) => response.end(socket.localAddress + " " + socket.remoteAddress))
  .listen(80, process.argv[1], () => console.log("serving"));
`;

/** A standing segment with its servers. `await using` removes it. */
export class Segment extends Lab<Place | "switch"> {
  readonly #servers: Running[] = [];
  readonly #folder = mkdtempSync(join(tmpdir(), "convey-segment-"));

  static async create(): Promise<Segment> {
    const segment = new Segment("cvs", [...PLACES, "switch"]);
    await segment.build(segment.#lines());
    try {
      await mountPins(segment.#folder);
      await segment.#serve();
    } catch (error) {
      await segment.remove();
      throw error;
    }
    return segment;
  }

  /** The words to put before the product's command line: where it runs, and where it notes what it changes. */
  balancer(...command: string[]): string[] {
    return this.at("balancer", ...noting(this.#folder), ...command);
  }

  /** Runs the product on the balancer; `await using` ends it as an operator would, so that the host is given back. */
  async run(file: string): Promise<Product> {
    const product = await runConvey(file, this.balancer());
    return {
      ...product,
      [Symbol.asyncDispose]: async () => {
        await product.process.stop("SIGTERM");
      },
    };
  }

  /** As `run`, with this configuration. */
  async runWith(toml: string): Promise<Product> {
    const file = join(mkdtempSync(join(this.#folder, "balancer-")), "config.toml");
    writeFileSync(file, toml, { mode: 0o600 });
    return this.run(file);
  }

  /** Who answers a client at a VIP, and whom it saw: "10.0.0.12 10.0.0.1". */
  async ask(vip: string, localPort?: number): Promise<string> {
    const from = localPort === undefined ? [] : ["--local-port", String(localPort)];
    return succeed(this.at("client", "curl", "-sS", "--max-time", "5", ...from, `http://${vip}/`));
  }

  /** Who answers connections from these ports, one after the other, by one program: they cost little more than one. */
  async askFrom(vip: string, localPorts: readonly number[]): Promise<string[]> {
    const command = ["curl"];
    for (const [i, port] of localPorts.entries()) {
      if (i > 0) command.push("--next");
      command.push("-sS", "--max-time", "5", "-H", "Connection: close", "--local-port", String(port));
      command.push("-w", "\\n", `http://${vip}/`);
    }
    return (await succeed(this.at("client", ...command))).trimEnd().split("\n");
  }

  override async remove(): Promise<void> {
    for (const server of this.#servers) await server[Symbol.asyncDispose]();
    await cleanUp(this.balancer());
    await super.remove();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #lines(): string[] {
    const middle = this.namespace("switch");
    const addresses = (place: Place): readonly string[] =>
      place === "client" ? [CLIENT] : place === "balancer" ? VIPS : [place];
    return [
      `ip -n ${middle} link add segment type bridge mcast_snooping 0`,
      `ip -n ${middle} link set segment up`,
      ...PLACES.flatMap((place, i) => {
        const name = this.namespace(place);
        return [
          `ip -n ${middle} link add port${i} type veth peer name eth0 netns ${name}`,
          `ip -n ${middle} link set port${i} master segment up`,
          ...(place === "balancer" ? otherEnd(middle, `port${i}`) : []),
          ...addresses(place).map((address) => `ip -n ${name} address add ${address}/24 dev eth0`),
          `ip -n ${name} link set eth0 up`,
        ];
      }),
    ];
  }

  async #serve(): Promise<void> {
    for (const place of SERVERS) {
      this.#servers.push(start(this.at(place, process.execPath, "-e", SERVE, place)));
    }
    for (const server of this.#servers) await server.waitFor(/serving/);
  }
}

/** Gives each test of a block a segment of its own. Where the machine lacks something they are skipped. */
export function onSegment(tools: readonly string[], use: (segment: Segment) => void): void {
  const missing = lacking({ root: true, tools: ["ip", "sysctl", "curl", ...XDP_TOOLS, ...tools] });
  beforeEach((context) => {
    if (missing !== undefined) context.skip(missing);
  });
  aroundEach(async (runTest) => {
    if (missing !== undefined) return runTest();
    await using segment = await Segment.create();
    use(segment);
    await runTest();
  });
}
