/**
 * One segment as the samples picture it: a client, a balancer with two addresses, and four servers at 10.0.0.11
 * to 10.0.0.14, port 80, that answer with their own and the client's address, each in a namespace of its own.
 * Names are unique, so several can stand at once. Needs root.
 */
import { randomBytes } from "node:crypto";
import { type Product, runConvey } from "../../support/convey.ts";
import { finish, type Running, start, succeed } from "../../support/processes.ts";

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
export class Segment implements AsyncDisposable {
  readonly #id = randomBytes(3).toString("hex");
  readonly #servers: Running[] = [];

  static async create(): Promise<Segment> {
    const segment = new Segment();
    try {
      await segment.#build();
    } catch (error) {
      await segment[Symbol.asyncDispose]();
      throw error;
    }
    return segment;
  }

  #namespace(place: Place | "switch"): string {
    return `cvs-${this.#id}-${place}`;
  }

  /** The words to put before a command so that it runs there. */
  at(place: Place, ...command: string[]): string[] {
    return ["ip", "netns", "exec", this.#namespace(place), ...command];
  }

  /** Runs a shell line there that must succeed; returns its stdout. */
  async sh(place: Place, line: string): Promise<string> {
    return succeed(this.at(place, "sh", "-ec", line));
  }

  /** Runs the product on the balancer; `await using` ends it as an operator would, so that the host is given back. */
  async run(file: string): Promise<Product> {
    const product = await runConvey(file, this.at("balancer"));
    return {
      ...product,
      [Symbol.asyncDispose]: async () => {
        await product.process.stop("SIGTERM");
      },
    };
  }

  /** Who answers a client at a VIP, and whom it saw: "10.0.0.12 10.0.0.1". */
  async ask(vip: string, localPort?: number): Promise<string> {
    const from = localPort === undefined ? [] : ["--local-port", String(localPort)];
    return succeed(this.at("client", "curl", "-sS", "--max-time", "5", ...from, `http://${vip}/`));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers) await server[Symbol.asyncDispose]();
    for (const place of [...PLACES, "switch"] as const) {
      await finish(["ip", "netns", "del", this.#namespace(place)]);
    }
  }

  async #build(): Promise<void> {
    const middle = this.#namespace("switch");
    const addresses = (place: Place): readonly string[] =>
      place === "client" ? [CLIENT] : place === "balancer" ? VIPS : [place];
    const lines = [
      `ip netns add ${middle}`,
      `ip -n ${middle} link add segment type bridge mcast_snooping 0`,
      `ip -n ${middle} link set segment up`,
      ...PLACES.flatMap((place, i) => {
        const name = this.#namespace(place);
        return [
          `ip netns add ${name}`,
          `ip -n ${name} link set lo up`,
          // Duplicate detection would change what `ip address` shows while a test compares.
          `ip netns exec ${name} sysctl -qw net.ipv6.conf.default.accept_dad=0`,
          `ip -n ${middle} link add port${i} type veth peer name eth0 netns ${name}`,
          `ip -n ${middle} link set port${i} master segment up`,
          ...addresses(place).map((address) => `ip -n ${name} address add ${address}/24 dev eth0`),
          `ip -n ${name} link set eth0 up`,
        ];
      }),
    ];
    await succeed(["sh", "-ec", lines.join("\n")]);
    for (const place of SERVERS) {
      this.#servers.push(start(this.at(place, process.execPath, "-e", SERVE, place)));
    }
    for (const server of this.#servers) await server.waitFor(/serving/);
  }
}
