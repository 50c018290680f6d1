/** Several source addresses towards the servers in passthrough mode. */
import { describe, expect, test } from "vitest";
import { pool } from "../support/convey.ts";
import { type Running, start } from "../support/processes.ts";
import { onSegment, SERVERS, type Segment, VIPS } from "./lab/segment.ts";

const [VIP] = VIPS;
const [SERVER] = SERVERS;
const REQUEST = "GET / HTTP/1.1\r\nHost: vip\r\n\r\n";
const PORTS = 4;

function configuration(addresses: readonly string[]): string {
  const toml = pool({ s: `${SERVER}:80` }, { top: ['mode = "passthrough"'], listen: `${VIP}:80` });
  return `${toml}[passthrough]
workers = 1
port_range = "40000-${40_000 + PORTS - 1}"
nat_addresses = ${JSON.stringify(addresses)}
`;
}

describe("passthrough.nat_addresses", () => {
  let segment: Segment;
  onSegment(["ss", "socat"], (standing) => {
    segment = standing;
  });

  test("each has every port: twice as many connections with one server as the range has ports", async () => {
    await using _product = await segment.runWith(configuration(VIPS));
    const held: Running[] = [];
    try {
      for (let n = 0; n < 2 * PORTS; n++) {
        const one = start(segment.at("client", "socat", "-t5", "-", `TCP:${VIP}:80`), { stdin: true });
        held.push(one);
        one.child.stdin?.write(REQUEST);
        await one.waitFor(/10\.0\.0\.11 10\.0\.0\.[13]/);
      }
      const seen = held.map((one) => /10\.0\.0\.11 (10\.0\.0\.[13])/.exec(one.stdout)?.[1]);
      for (const address of VIPS) expect(seen.filter((by) => by === address)).toHaveLength(PORTS);
      await expect(segment.ask(VIP)).rejects.toThrow();
      for (const one of held) {
        one.stdout = "";
        one.child.stdin?.write(REQUEST);
        await one.waitFor(/10\.0\.0\.11 10\.0\.0\.[13]/);
      }
    } finally {
      for (const one of held) await one[Symbol.asyncDispose]();
    }
  });

  test("one that is no address of this host is refused by name", async () => {
    await expect(segment.runWith(configuration(["10.0.0.99"]))).rejects.toThrow(
      /passthrough\.nat_addresses.*10\.0\.0\.99 is no address of this host/s,
    );
  });
});
