/** What `engine = "auto"` takes, by link and privilege. Looked at once: which engine it is, is the question. */
import { beforeEach, describe, expect, test } from "vitest";
import { type Product, runConvey } from "../support/convey.ts";
import { sampleFile } from "../support/samples.ts";
import { engine } from "./engines.ts";
import { onSegment, type Segment, VIPS } from "./lab/segment.ts";

const FILE = sampleFile("passthrough");

describe('engine "auto"', () => {
  let segment: Segment;
  onSegment(["tc", "nft", "setpriv"], (standing) => {
    segment = standing;
  });
  beforeEach((context) => {
    if (engine() !== "tc") context.skip("chooses the engine itself: looked at in the run for tc");
  });

  /** Starts it as root, without these capabilities. */
  async function run(without: readonly string[] = []): Promise<Product> {
    const less = without.map((name) => `-${name}`).join(",");
    const prefix = without.length === 0 ? [] : ["setpriv", "--bounding-set", less];
    const product = await runConvey(FILE, segment.balancer("env", "CONVEY_ENGINE=auto", ...prefix));
    return {
      ...product,
      [Symbol.asyncDispose]: async () => {
        await product.process.stop("SIGTERM");
      },
    };
  }

  test("takes tc on a veth, and says in one line why XDP is not tried", async () => {
    await using product = await run();
    expect(await segment.ask(VIPS[0])).toMatch(/^10\.0\.0\.1[1-4] /);
    const cause = "eth0 is a veth, on which tc is faster";
    expect(await product.stats()).toMatchObject({
      engine: "tc",
      engines_refused: [{ engine: "xdp", kind: "unsupported", cause, remedy: "" }],
    });
    const told = product.process.stderr.split("\n").filter((line) => line.includes("xdp"));
    expect(told).toHaveLength(1);
    expect(told[0]).toContain(`engine xdp was not taken: ${cause}`);
  });

  test("takes af_packet where BPF is refused, and names the capability that is missing", async () => {
    await using product = await run(["bpf", "perfmon", "sys_admin"]);
    expect(await segment.ask(VIPS[0])).toMatch(/^10\.0\.0\.1[1-4] /);
    const stats = await product.stats();
    expect(stats).toMatchObject({ engine: "af_packet", guard: "nft" });
    const tc = stats.engines_refused?.find((refused) => refused.engine === "tc");
    expect(tc).toMatchObject({ kind: "permission", errno: 1 });
    expect(tc?.remedy).toContain("CAP_BPF");
    expect(product.process.stderr).toContain("engine tc was not taken: ");
  });
});
