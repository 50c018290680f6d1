/** Engines in the kernel: what goes on while no process lives, and what another start makes of it. */

import { copyFile, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { aroundAll, describe, expect, test } from "vitest";
import { type Product, runConvey } from "../../support/convey.ts";
import { CONVEY } from "../../support/peers.ts";
import { finish, start } from "../../support/processes.ts";
import { Busy, current, leftBehind } from "../lab/busy.ts";
import { hostState } from "../lab/host-state.ts";
import type { PacketLab } from "../lab/lab.ts";
import { end, type Scene, type Stage } from "../lab/scene.ts";
import { patiently, watchSentAgain } from "../lab/sent-again.ts";
import { Talker } from "../lab/talk.ts";
import { meetsEveryServer, names } from "../lab/traffic.ts";

/** Registers the cases. Each starts balancers of its own and leaves the lab as it was. */
export function outliving({ method, scene: standing }: Stage): void {
  describe("without a process", () => {
    let scene: Scene;
    let lab: PacketLab;
    let before: string;

    aroundAll(async (runTests) => {
      const stands = standing();
      if (stands === undefined) return runTests();
      scene = stands;
      lab = scene.lab;
      before = await hostState(lab, "balancer");
      await patiently(lab, runTests);
    }, 180_000);

    const kill = async ({ process }: Product) => {
      process.child.kill("SIGKILL");
      await process.exited;
    };

    /** Nothing of these balancers is left, and the kernel answers for itself. */
    const expectClean = async (balancers: readonly Product[]) => {
      expect(await hostState(lab, "balancer")).toBe(before);
      expect(await leftBehind(scene, balancers)).toEqual([]);
      const refused = await finish(
        lab.at("client", "curl", "-sS", "--max-time", "3", `http://${lab.vip()}/`),
      );
      expect(refused.code, "curl's code for a refused connection").toBe(7);
    };

    test("old connections and new ones are served while the process is dead, and neither its end nor the next start costs a retransmission", {
      timeout: 180_000,
    }, async () => {
      await using talker = await Talker.start(lab, lab.vip());
      const flows = new Busy(talker);
      const balancers: Product[] = [];
      let sentAgain: Awaited<ReturnType<typeof watchSentAgain>>;
      {
        await using killed = await scene.balance();
        balancers.push(killed);
        // Next hops towards the client are known then.
        await names(lab, lab.vip(), 10);
        await flows.open(20);
        sentAgain = await watchSentAgain(lab);
        await kill(killed);
      }
      await flows.rounds(20);
      await meetsEveryServer(lab);
      await using product = await scene.balance();
      balancers.push(product);
      await product.process.waitFor(/took over \d+ flows of a killed balancer"/);
      await flows.rounds(20);
      expect(await sentAgain(), "segments sent again").toEqual({});
      expect(await current(product)).toBe(20);
      expect(await flows.lost()).toBe(0);
      expect((await talker.ask({ do: "close" })).ok).toBe(20);
      await end(product);
      await expectClean(balancers);
    });

    test("killed while decisions are watched it takes no packet along, and the next process can be asked for them", async () => {
      const watch = ({ file }: Product) =>
        start([...scene.prefix(), process.execPath, CONVEY, "explain", "--live", "--json", "-c", file]);
      await using talker = await Talker.start(lab, lab.vip());
      const flows = new Busy(talker);
      const balancers: Product[] = [];
      {
        await using killed = await scene.balance();
        balancers.push(killed);
        await using watching = watch(killed);
        await flows.open(20);
        await watching.waitFor(/"verdict":"forward"/);
        await kill(killed);
      }
      await flows.rounds(20);
      await meetsEveryServer(lab);
      await using product = await scene.balance();
      balancers.push(product);
      await product.process.waitFor(/took over \d+ flows of a killed balancer"/);
      await using watching = watch(product);
      await watching.waitFor(/"verdict":"forward"/);
      expect(await flows.lost()).toBe(0);
      expect((await talker.ask({ do: "close" })).ok).toBe(20);
      await end(product);
      await expectClean(balancers);
    }, 180_000);

    test("with shutdown.keep_forwarding SIGTERM waits for nobody, everything goes on, and the next start goes on with it", async () => {
      await using talker = await Talker.start(lab, lab.vip());
      const flows = new Busy(talker);
      const balancers: Product[] = [];
      {
        await using kept = await scene.balance({ keepForwarding: true });
        balancers.push(kept);
        await flows.open(20);
        kept.process.child.kill("SIGTERM");
        expect(await kept.process.exited).toEqual({ code: 0, signal: null });
        expect(kept.process.stderr).toMatch(/SIGTERM: the kernel goes on forwarding/);
      }
      await flows.rounds(20);
      await meetsEveryServer(lab);
      await using product = await scene.balance();
      balancers.push(product);
      await product.process.waitFor(/took over \d+ flows of a killed balancer"/);
      expect(await flows.lost()).toBe(0);
      expect((await talker.ask({ do: "close" })).ok).toBe(20);
      await end(product);
      await expectClean(balancers);
    }, 180_000);

    test("`convey cleanup` after a kill ends the forwarding and restores the host, bit for bit", async () => {
      const balancers: Product[] = [];
      {
        await using killed = await scene.balance();
        balancers.push(killed);
        // The process is asked for the next hop towards a client that is new.
        await names(lab, lab.vip(), 10);
        await kill(killed);
      }
      await meetsEveryServer(lab);
      const cleaned = await finish([...scene.prefix(), process.execPath, CONVEY, "cleanup"]);
      expect(cleaned.stdout + cleaned.stderr).toMatch(/removed the programs and tables of/);
      await expectClean(balancers);
    }, 180_000);

    test("tables of another layout are left alone, said so, and gone once the new ones stand; those of another size give their flows away", async () => {
      const balancers: Product[] = [];
      {
        await using killed = await scene.balance();
        balancers.push(killed);
        await kill(killed);
        const folder = join(scene.services.folder, "state");
        const [file = ""] = (await readdir(folder)).filter((name) => name.endsWith(".tables"));
        const tables = JSON.parse(await readFile(join(folder, file), "utf8"));
        await writeFile(join(folder, file), JSON.stringify({ ...tables, layout: 999 }));
      }
      await using talker = await Talker.start(lab, lab.vip());
      const flows = new Busy(talker);
      {
        await using fresh = await scene.balance();
        balancers.push(fresh);
        await fresh.process.waitFor(/are not taken over: its tables have layout 999/);
        expect(await current(fresh)).toBe(0);
        await flows.open(20);
        expect(await leftBehind(scene, balancers)).toHaveLength(5);
        await kill(fresh);
      }
      await using larger = await scene.balance({ capacity: 131_072 });
      balancers.push(larger);
      await larger.process.waitFor(/not gone on with: connection_tracker_capacity/);
      await larger.process.waitFor(/took over \d+ flows of a killed balancer"/);
      expect(await current(larger)).toBe(20);
      expect(await flows.lost()).toBe(0);
      expect(await leftBehind(scene, balancers)).toHaveLength(5);
      expect((await talker.ask({ do: "close" })).ok).toBe(20);
      await end(larger);
      await expectClean(balancers);
    }, 180_000);

    test("pins whose journal is gone are gone with the next start, which forwards for itself", async () => {
      const balancers: Product[] = [];
      {
        await using killed = await scene.balance();
        balancers.push(killed);
        await kill(killed);
      }
      await rm(join(scene.services.folder, "state"), { recursive: true });
      await using product = await scene.balance();
      balancers.push(product);
      await product.process.waitFor(/removed the programs and tables of \S+: no journal names it/);
      await meetsEveryServer(lab, product);
      await end(product);
      // What the journal knew of the host is lost with it.
      await lab.sh("balancer", `sysctl -qw net.ipv4.ip_local_reserved_ports=`);
      await expectClean(balancers);
    }, 180_000);

    test("without a BPF file system it works, says that it would not outlive its process, and does not", async () => {
      const file = await scene.file(scene.configuration({ keepForwarding: true }));
      await using product = await runConvey(file, [...scene.prefix(), "env", "CONVEY_BPFFS=/proc"]);
      await product.process.waitFor(
        /would not outlive this process if it were killed: .*is no BPF file system/,
      );
      await product.process.waitFor(/keep_forwarding has no effect: engine \w+ as it is set up here/);
      await meetsEveryServer(lab);
      product.process.child.kill("SIGTERM");
      await product.process.exited;
      await expectClean([product]);
    }, 180_000);

    test("a start in the other mode makes tables of its own, says so, and the others are gone", async () => {
      const balancers: Product[] = [];
      {
        await using killed = await scene.balance();
        balancers.push(killed);
        await kill(killed);
      }
      const other = method === "passthrough" ? "rewrite" : "passthrough";
      await using product = await scene.balance({ method: other });
      balancers.push(product);
      await product.process.waitFor(/not gone on with: it ran in another mode/);
      expect(await leftBehind(scene, balancers)).toHaveLength(5);
      await end(product);
      await expectClean(balancers);
    }, 180_000);

    test("what a process was killed over while it made it, took it over or took it away is no obstacle", async () => {
      const state = join(scene.services.folder, "state");
      const pins = join(scene.services.folder, "bpf", "convey");
      const one = async (folder: string, end: string) =>
        join(folder, (await readdir(folder)).find((name) => name.endsWith(end)) ?? "");
      const halves: [() => Promise<void>, RegExp][] = [
        [async () => rm(await one(state, ".tables")), /are not taken over: No such file/],
        [async () => rm(join(await one(pins, ""), "flows4")), /are not taken over: its map flows4/],
        [
          async () => copyFile(await one(state, ".json"), join(state, "balancer_0_0.json")),
          /took over \d+ flows of a killed balancer"/,
        ],
      ];
      const balancers: Product[] = [await scene.balance()];
      for (const [halve, said] of halves) {
        for (const before of balancers.slice(-1)) await kill(before);
        await halve();
        const next = await scene.balance();
        balancers.push(next);
        await next.process.waitFor(said);
        expect(await leftBehind(scene, balancers), String(said)).toHaveLength(5);
        await meetsEveryServer(lab, next);
      }
      for (const last of balancers.slice(-1)) await end(last);
      await expectClean(balancers);
    }, 180_000);

    // How flows are carried is the same for both methods of DSR.
    if (method === "l2") return;
    test("flows go from the kernel to af_packet and back over two kills, and none is lost", async () => {
      await using talker = await Talker.start(lab, lab.vip());
      const flows = new Busy(talker);
      const balancers: Product[] = [];
      for (const engine of [undefined, "af_packet", undefined]) {
        await using killed = await scene.balance(engine === undefined ? {} : { engine });
        balancers.push(killed);
        if (balancers.length === 1) await flows.open(20);
        expect(await current(killed)).toBe(20);
        await flows.rounds(5);
        await kill(killed);
        await sleep(200);
      }
      await using last = await scene.balance();
      balancers.push(last);
      expect(await current(last)).toBe(20);
      expect(await flows.lost()).toBe(0);
      expect((await talker.ask({ do: "close" })).ok).toBe(20);
      await end(last);
      await expectClean(balancers);
    }, 180_000);
  });
}
