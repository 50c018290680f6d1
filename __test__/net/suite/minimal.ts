/** DSR that remembers only the flows that a change of servers would send elsewhere. */
import { aroundAll, describe, expect, test } from "vitest";
import type { Explanation } from "../../../ts/index.ts";
import { until } from "../../support/processes.ts";
import type { PacketLab } from "../lab/lab.ts";
import { packets, reconfigure, type Scene, type Settings, type Stage } from "../lab/scene.ts";
import { TALK, Talker } from "../lab/talk.ts";

const FLOWS = 90;

/** Registers the cases. Each starts a balancer of its own and leaves the lab as it was. */
export function minimal({ scene: standing }: Stage): void {
  describe("with minimal connection tracking", () => {
    let scene: Scene;
    let lab: PacketLab;
    const settings = (more: Partial<Settings> = {}): Partial<Settings> => ({ tracking: "minimal", ...more });

    aroundAll(async (runTests) => {
      const stands = standing();
      if (stands === undefined) return runTests();
      scene = stands;
      lab = scene.lab;
      await runTests();
    }, 60_000);

    test("no flow is remembered while nothing changes, and what is not counted is absent from /stats", async () => {
      await using product = await scene.balance(settings());
      await using talker = await Talker.start(lab, lab.vip());
      expect((await talker.ask({ do: "open", count: FLOWS })).ok).toBe(FLOWS);
      expect((await talker.ask({ do: "ping" })).ok).toBe(FLOWS);
      const stats = await product.stats();
      expect(stats.flows?.current).toBe(0);
      expect(packets(stats).noted.flow_begun).toBeUndefined();
      expect(JSON.stringify(stats)).not.toMatch(/(current|total)_connections/);
      expect(stats.frontends.talk_v4?.bytes_tx).toBeGreaterThan(0);
    });

    test("connections go on where they are while servers drain, leave, come and come back", async () => {
      await using product = await scene.balance(settings());
      await using talker = await Talker.start(lab, lab.vip());
      let open = 0;
      const grow = async () => {
        expect((await talker.ask({ do: "open", count: FLOWS })).ok).toBe(FLOWS);
        open += FLOWS;
      };
      await grow();
      for (const [what, weights] of [
        ["while one drains", { server1: 0 }],
        ["after it was removed", { server1: null }],
        ["after another was removed", { server1: null, server2: null }],
        ["with one back", { server2: null }],
        ["with all back", {}],
        ["with other weights", { server3: 7 }],
      ] as const) {
        await reconfigure(product, scene.configuration(settings({ weights })));
        expect((await talker.ask({ do: "ping" })).ok, what).toBe(open);
        await grow();
        expect((await talker.ask({ do: "ping" })).ok, `${what}, new ones too`).toBe(open);
      }
      // Kernel engines count what is in the table as they look through it.
      await until(async () => ((await product.stats()).flows?.current ?? 0) > 0, "remembered flows", 15_000);
    });

    test("explain tells which server the slot's connections go on at, and where new ones go", async () => {
      await using product = await scene.balance(settings());
      const vip = `${lab.vip()}:${TALK}`;
      const sources = Array.from({ length: 12 }, (_, i) => `${lab.client()}:${20_000 + i}`);
      const ask = async () => {
        const all: Explanation[] = [];
        for (const source of sources) all.push(await product.explain(source, vip));
        return all;
      };
      const before = await ask();
      expect(before.every(({ steps }) => steps.some(({ kind }) => kind === "not_tracked"))).toBe(true);
      await reconfigure(product, scene.configuration(settings({ weights: { server1: 0 } })));
      const after = await ask();
      for (const [i, then] of before.entries()) {
        const moved = after[i]?.steps.find(({ kind }) => kind === "slot_moved");
        const elsewhere = after[i]?.server?.name !== then.server?.name;
        expect(moved !== undefined, sources[i]).toBe(elsewhere);
        if (moved !== undefined) expect(moved.text).toContain(`"${then.server?.name}"`);
      }
      expect(after.every(({ server }) => server?.name !== "server1")).toBe(true);
    });
  });
}
