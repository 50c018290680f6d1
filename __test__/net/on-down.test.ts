/** What becomes of flows when checks find their server down, in passthrough mode. */
import { describe, expect, test } from "vitest";
import { type Running, start, until } from "../support/processes.ts";
import { Asked } from "./lab/asked.ts";
import { CLIENT, onSegment, SERVERS, type Segment, VIPS } from "./lab/segment.ts";

const [VIP] = VIPS;
const REQUEST = "GET / HTTP/1.1\r\nHost: vip\r\n\r\n";
const CHECKED = 9990;

const configuration = (on_down: string): object => ({
  mode: "passthrough",
  frontends: { web: { listen_addr: ":80", backend: "app" } },
  backends: {
    app: {
      on_down,
      health_check: { port: CHECKED, interval_ms: 200, fast_interval_ms: 100, timeout_ms: 1000, fall: 2 },
      servers: { one: { addr: `${SERVERS[0]}:80` } },
    },
  },
  passthrough: { workers: 2 },
});

describe("flows of a server that goes down", () => {
  let segment: Segment;
  onSegment(["ss", "socat"], (standing) => {
    segment = standing;
  });

  async function ask(connection: Running): Promise<void> {
    connection.stdout = "";
    connection.child.stdin?.write(REQUEST);
    await connection.waitFor(/\r\n(10\.0\.0\.1[1-4]) 10\.0\.0\./);
  }

  test.each(["reset", "keep"])('with on_down = "%s"', async (on_down) => {
    // What checks ask can go while the service stays.
    const place = SERVERS[0] as Parameters<Segment["at"]>[0];
    const asked = start(segment.at(place, "socat", `TCP-LISTEN:${CHECKED},reuseaddr,fork`, "EXEC:true"));
    await using balancer = await Asked.start(segment, configuration(on_down));
    const address = `TCP:${VIP}:80,sourceport=${on_down === "keep" ? 5601 : 5602},reuseaddr`;
    await using connection = start(segment.at("client", "socat", "-d", "-t5", "-", address), { stdin: true });
    await ask(connection);
    expect(await balancer.allFlows({ client: CLIENT, state: "established" })).not.toEqual([]);
    await asked[Symbol.asyncDispose]();
    if (on_down === "reset") {
      await until(
        async () => (await balancer.allFlows({ client: CLIENT, state: "established" })).length === 0,
        "the flow's end",
        20_000,
      );
      connection.child.stdin?.write(REQUEST);
      await until(
        () => /reset by peer/i.test(connection.stderr),
        "the reset",
        10_000,
        () => connection.output(),
      );
    } else {
      await new Promise((resolve) => setTimeout(resolve, 2000));
      await ask(connection);
    }
  });
});
