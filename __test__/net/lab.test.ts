/** The lab itself: what the other tests of this folder stand on. */
import { readdirSync } from "node:fs";
import { expect, test } from "vitest";
import { succeed } from "../support/processes.ts";
import { needs } from "../support/requirements.ts";
import { sampleFile } from "../support/samples.ts";
import { engine } from "./engines.ts";
import { type Arms, PacketLab, SERVERS } from "./lab/lab.ts";
import { XDP_TOOLS } from "./lab/other-end.ts";
import { Segment } from "./lab/segment.ts";
import { pings } from "./lab/traffic.ts";

for (const arms of ["one-arm", "two-arm"] as const satisfies readonly Arms[]) {
  test(`a ${arms} lab carries packets between client, balancer and servers, and leaves nothing behind`, async (context) => {
    needs(context, { root: true, tools: ["ip", "sysctl", "socat", ...XDP_TOOLS] });
    let namespace: string;
    {
      await using lab = await PacketLab.create({ arms });
      namespace = lab.namespace("client");
      const ways = (["v4", "v6"] as const).flatMap((family) => [
        { from: "client", to: lab.vip(family) } as const,
        ...SERVERS.map((server) => ({ from: "balancer", to: lab.server(server, family) }) as const),
        ...SERVERS.map((from) => ({ from, to: lab.client(family) })),
      ]);
      // All at once: each waits half a second for more than one answer.
      const lost = await Promise.all(
        ways.map(async ({ from, to }) => ((await pings(lab, from, to)) ? [] : [`${from} to ${to}`])),
      );
      expect(lost.flat()).toEqual([]);
      expect(await succeed(["ip", "netns", "list"])).toContain(namespace);
    }
    const id = namespace.replace("-client", "");
    expect(await succeed(["ip", "netns", "list"])).not.toContain(id);
  });
}

test("what a killed balancer leaves, in shared memory or pinned, goes with its lab", async (context) => {
  needs(context, { root: true, tools: ["ip", "sysctl", "curl", ...XDP_TOOLS] });
  let left: () => string[];
  {
    await using segment = await Segment.create();
    const { process } = await segment.run(sampleFile("passthrough"));
    left = () => readdirSync("/dev/shm").filter((name) => name.includes(`_balancer_${process.pid}_`));
    await process.stop("SIGKILL");
    // Engines in the kernel keep flows in maps that are pinned: suite/outliving.ts looks after those.
    if (!/^(tc|xdp)$/.test(engine())) expect(left()).toHaveLength(1);
  }
  expect(left()).toEqual([]);
});
