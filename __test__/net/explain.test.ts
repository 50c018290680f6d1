/** `convey explain --running` against connections: what it says is what happens. */
import { aroundAll, beforeEach, describe, expect, test } from "vitest";
import type { Explanation } from "../../ts/index.ts";
import { CONVEY } from "../support/peers.ts";
import { start, succeed, until } from "../support/processes.ts";
import { lacking } from "../support/requirements.ts";
import { sampleFile } from "../support/samples.ts";
import { XDP_TOOLS } from "./lab/other-end.ts";
import { CLIENT, Segment, VIPS } from "./lab/segment.ts";

const missing = lacking({ root: true, tools: ["ip", "ss", "sysctl", "curl", "socat", ...XDP_TOOLS] });
const [VIP] = VIPS;

describe("convey explain in passthrough mode", () => {
  let segment: Segment;

  aroundAll(async (runTests) => {
    if (missing !== undefined) return runTests();
    await using standing = await Segment.create();
    segment = standing;
    await using _product = await segment.run(sampleFile("passthrough"));
    await runTests();
  });
  beforeEach((context) => {
    if (missing !== undefined) context.skip(missing);
  });

  async function explain(source: string, destination: string, ...flags: string[]): Promise<Explanation> {
    const command = [CONVEY, "explain", "-c", sampleFile("passthrough"), "--json", ...flags];
    const question = ["tcp", source, destination];
    return JSON.parse(await succeed(segment.balancer(process.execPath, ...command, ...question)));
  }

  test("a new flow gets a Maglev slot, and then really goes to the server that was named", async () => {
    const servers = new Set<string>();
    for (let port = 5001; port <= 5006; port++) {
      const told = await explain(`${CLIENT}:${port}`, `${VIP}:80`, "--running");
      expect(told).toMatchObject({ frontend: "tcp_80", flow: null, method: "nat", verdict: "forward" });
      expect(told.maglev_slot).toBeTypeOf("number");
      expect(told.rewritten?.source, "a port still to be taken").toBe(`${VIP}:0`);
      const [server] = (await segment.ask(VIP, port)).split(" ");
      expect(`${server}:80`).toBe(told.server?.addr);
      servers.add(told.server?.addr ?? "");
    }
    expect(servers.size, "more than one server was named").toBeGreaterThan(1);
  });

  test("the configuration alone names the same slot and server, without a privilege", async () => {
    const running = await explain(`${CLIENT}:5101`, `${VIP}:80`, "--running");
    const command = ["setpriv", "--reuid", "65534", "--clear-groups", process.execPath, CONVEY];
    const told = await succeed(
      segment.at(
        "balancer",
        ...command,
        ...["explain", "-c", sampleFile("passthrough"), "--json", "tcp", `${CLIENT}:5101`, `${VIP}:80`],
      ),
    );
    expect(JSON.parse(told)).toMatchObject({
      maglev_slot: running.maglev_slot,
      server: running.server,
      verdict: "forward",
    });
  });

  test("an open connection is known, and so is the way back of its answers", async () => {
    await using open = start(segment.at("client", "socat", "-", `TCP:${VIP}:80,sourceport=5201`), {
      stdin: true,
    });
    const told = await until(
      async () => {
        const now = await explain(`${CLIENT}:5201`, `${VIP}:80`, "--running");
        return now.flow === "established" ? now : undefined;
      },
      "established flow",
      10_000,
      () => open.output(),
    );
    expect(told).toMatchObject({ maglev_slot: null, direction: "from_client", verdict: "forward" });
    expect(told.steps).toContainEqual({
      kind: "known_flow",
      state: "established",
      text: "the flow table knows it (established)",
    });

    const { source = "", destination = "" } = told.rewritten ?? {};
    const back = await explain(destination, source, "--running");
    expect(back).toMatchObject({
      flow: "established",
      direction: "from_server",
      rewritten: { source: `${VIP}:80`, destination: `${CLIENT}:5201` },
      verdict: "forward",
    });
    const state = await segment.sh("client", "ss -Htn state established 'sport = :5201'");
    expect(state, "the connection lives while it is asked about").toContain(":5201");
  });

  test("what is for nobody here is left to the kernel", async () => {
    expect(await explain(`${CLIENT}:5301`, `${VIP}:81`, "--running")).toMatchObject({
      frontend: null,
      verdict: "pass not_vip",
    });
  });
});
