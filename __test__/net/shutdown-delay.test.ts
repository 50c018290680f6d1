/** `shutdown.delay_ms` in a packet mode. */
import { describe, expect, test } from "vitest";
import { pool } from "../support/convey.ts";
import { succeed, until } from "../support/processes.ts";
import { onSegment, SERVERS, type Segment, VIPS } from "./lab/segment.ts";

const [VIP] = VIPS;

describe("the delay before a drain in passthrough mode", () => {
  let segment: Segment;
  onSegment(["curl"], (standing) => {
    segment = standing;
  });

  test("new flows are taken for shutdown.delay_ms after SIGTERM, while /readyz answers 503", async () => {
    const top = ['mode = "passthrough"', "[shutdown]", "delay_ms = 4000"];
    await using product = await segment.runWith(
      pool({ s: `${SERVERS[0]}:80` }, { top, listen: `${VIP}:80` }),
    );
    const [, port = ""] = await product.process.waitFor(/statistics on http:\/\/127\.0\.0\.1:(\d+)/);
    const readyz = async () =>
      await succeed(
        segment.at(
          "balancer",
          "curl",
          "-s",
          "-o",
          "/dev/null",
          "-w",
          "%{http_code}",
          `http://127.0.0.1:${port}/readyz`,
        ),
      );
    await until(async () => (await readyz()) === "200", "it to be ready", 20_000);
    const begun = performance.now();
    product.process.child.kill("SIGTERM");
    await product.process.waitFor(/not ready any more; new connections are taken for 4000 ms yet/);
    expect(await readyz()).toBe("503");
    expect(await segment.ask(VIP)).toBe(`${SERVERS[0]} ${VIP}`);
    expect(await product.process.exited).toMatchObject({ code: 0 });
    expect(performance.now() - begun).toBeGreaterThan(3900);
  });
});
