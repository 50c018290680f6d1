/** How a balancer of the packet modes comes and goes, and what it leaves of the host and of its flows. */
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parse } from "smol-toml";
import { aroundAll, describe, expect, test } from "vitest";
import type { Product } from "../../support/convey.ts";
import { CONVEY } from "../../support/peers.ts";
import { finish, start, until } from "../../support/processes.ts";
import { inKernel } from "../engines.ts";
import { Busy, current, leftBehind } from "../lab/busy.ts";
import { hostState } from "../lab/host-state.ts";
import { type PacketLab, SERVERS } from "../lab/lab.ts";
import { end, type Scene, type Stage } from "../lab/scene.ts";
import { Talker } from "../lab/talk.ts";
import { answers, meetsEveryServer } from "../lab/traffic.ts";

const ROOT = resolve(import.meta.dirname, "../../..");

/** Registers the cases. Each starts balancers of its own and leaves the lab as it was. */
export function restarts({ method, scene: standing }: Stage): void {
  describe("coming and going", () => {
    const nat = method === "passthrough";
    let scene: Scene;
    let lab: PacketLab;
    let before: string;

    aroundAll(async (runTests) => {
      const stands = standing();
      if (stands === undefined) return runTests();
      scene = stands;
      lab = scene.lab;
      // Somebody else's, which must survive.
      await lab.sh("balancer", "nft add table inet theirs; nft add chain inet theirs kept");
      await lab.sh("balancer", "sysctl -qw net.ipv4.ip_local_reserved_ports=8443,40100-40110");
      before = await hostState(lab, "balancer");
      await runTests();
      await lab.sh("balancer", "nft delete table inet theirs; sysctl -qw net.ipv4.ip_local_reserved_ports=");
    }, 180_000);

    test("SIGTERM takes no new flows, lets the open ones end, exits 0 and leaves the host as it was, bit for bit; ports are reserved meanwhile", async () => {
      await using product = await scene.balance();
      await using talker = await Talker.start(lab, lab.vip());
      const reserved = await lab.sh("balancer", "sysctl -n net.ipv4.ip_local_reserved_ports");
      if (nat) expect(reserved.trim()).toBe("8443,33768-61000");
      else expect(reserved.trim()).toBe("8443,40100-40110");
      expect((await talker.ask({ do: "open", count: 10 })).ok).toBe(10);
      product.process.child.kill("SIGTERM");
      await product.process.waitFor(/no new connections; 10 open/);
      await using late = await Talker.start(lab, lab.vip());
      expect((await late.ask({ do: "open", count: 3 })).failed).toBe(3);
      expect((await talker.ask({ do: "ping" })).ok).toBe(10);
      expect(product.process.running).toBe(true);
      if (nat) await talker.ask({ do: "close" });
      // DSR sees the client's side alone: a reset ends a flow for it, two FINs it waits for.
      else await talker.ask({ do: "reset" });
      expect(await product.process.exited).toEqual({ code: 0, signal: null });
      expect(product.process.stderr).not.toMatch(/"level":"(warn|error)"/);
      expect(await hostState(lab, "balancer")).toBe(before);
      // The kernel answers for itself again.
      const refused = await finish(
        lab.at("client", "curl", "-sS", "--max-time", "3", `http://${lab.vip()}/`),
      );
      expect(refused.code, "curl's code for a refused connection").toBe(7);
    });

    test("a second SIGTERM ends it at once, with flows open", async () => {
      await using product = await scene.balance();
      await using talker = await Talker.start(lab, lab.vip());
      expect((await talker.ask({ do: "open", count: 5 })).ok).toBe(5);
      product.process.child.kill("SIGTERM");
      await product.process.waitFor(/no new connections; 5 open/);
      const begun = performance.now();
      product.process.child.kill("SIGTERM");
      await product.process.exited;
      expect(performance.now() - begun).toBeLessThan(2000);
      expect(await hostState(lab, "balancer")).toBe(before);
    });

    test("a health change during the drain admits no new flow", async () => {
      const [server] = SERVERS;
      await using product = await scene.balance();
      await using talker = await Talker.start(lab, lab.vip());
      expect((await talker.ask({ do: "open", count: 5 })).ok).toBe(5);
      product.process.child.kill("SIGTERM");
      await product.process.waitFor(/no new connections; 5 open/);
      await lab.sh(
        server,
        "nft add table inet drained; nft 'add chain inet drained in { type filter hook input priority 0; }';" +
          " nft add rule inet drained in tcp dport 80 reject with tcp reset",
      );
      try {
        await product.process.waitFor(/server http_v4\/\S+ is down/, 4_500);
        await using late = await Talker.start(lab, lab.vip());
        expect((await late.ask({ do: "open", count: 6 })).failed).toBe(6);
        expect((await talker.ask({ do: "ping" })).ok).toBe(5);
        expect(product.process.running).toBe(true);
      } finally {
        await lab.sh(server, "nft delete table inet drained");
      }
      product.process.child.kill("SIGTERM");
      await product.process.exited;
      expect(await hostState(lab, "balancer")).toBe(before);
    });

    test("a second instance on the same address is refused, and the first does not notice", async () => {
      await using product = await scene.balance();
      const second = await finish([...scene.prefix(), process.execPath, CONVEY, "run", "-c", product.file]);
      expect(second.code).toBe(1);
      expect(second.stderr).toMatch(/already|another|in use/);
      await meetsEveryServer(lab, product);
      await end(product);
      expect(await hostState(lab, "balancer")).toBe(before);
    });

    // Who is whose worker is one program for both methods of DSR.
    for (const workers of method === "l2" ? [2] : [2, 3]) {
      test(`busy flows go on over SIGKILL and the next start with ${workers} workers after 2: none is lost, each is counted once, and nothing is left in the end`, async () => {
        await using talker = await Talker.start(lab, lab.vip());
        const flows = new Busy(talker);
        const balancers: Product[] = [];
        {
          await using killed = await scene.balance();
          balancers.push(killed);
          await flows.open(20);
          // A journal, its lock, and what slots stand for; the table of flows, or how the pinned ones lie and the pins.
          expect(await leftBehind(scene, balancers)).toHaveLength(inKernel() ? 5 : 4);
          killed.process.child.kill("SIGKILL");
          await killed.process.exited;
        }
        await sleep(500);
        await using product = await scene.balance({ workers });
        balancers.push(product);
        await product.process.waitFor(/took over \d+ flows of a killed balancer"/);
        expect(await current(product), "connections taken over").toBe(20);
        expect(await flows.lost(), "flows that did not survive").toBe(0);
        expect((await talker.ask({ do: "close" })).ok).toBe(20);
        if (nat) await until(async () => (await current(product)) === 0, "the end of every connection");
        await meetsEveryServer(lab, product);
        await end(product);
        expect(await hostState(lab, "balancer")).toBe(before);
        expect(await leftBehind(scene, balancers)).toEqual([]);
      }, 180_000);
    }

    test("flows go on over three kills in a row, through the servers they began with, though others have joined and their own takes no new ones", async () => {
      await using talker = await Talker.start(lab, lab.vip());
      const flows = new Busy(talker);
      {
        await using first = await scene.balance({ weights: { server3: null } });
        await flows.open(20);
        first.process.child.kill("SIGKILL");
        await first.process.exited;
      }
      for (const weights of [{ server1: 0 }, { server2: 0 }]) {
        await using again = await scene.balance({ weights });
        expect(await current(again)).toBe(20);
        await flows.rounds(5);
        again.process.child.kill("SIGKILL");
        await again.process.exited;
      }
      await using last = await scene.balance();
      expect(await current(last)).toBe(20);
      expect(await flows.lost()).toBe(0);
      expect((await talker.ask({ do: "close" })).ok).toBe(20);
      await end(last);
      expect(await hostState(lab, "balancer")).toBe(before);
      expect(await leftBehind(scene, [last])).toEqual([]);
    }, 180_000);

    test("a conversation of datagrams goes on over SIGKILL, with its server and from the port it came from", async () => {
      await using talker = await Talker.start(lab, lab.vip());
      const ask = async () => {
        const texts = ["from", "from", "from"];
        return (await talker.ask({ do: "datagrams", texts, waitMs: 100, localPort: 45_678, wanted: 3 }))
          .answers;
      };
      let begun: string[] | undefined;
      {
        await using killed = await scene.balance();
        begun = await ask();
        expect(new Set(begun).size, begun?.join()).toBe(1);
        killed.process.child.kill("SIGKILL");
        await killed.process.exited;
      }
      await using product = await scene.balance();
      expect(await ask()).toEqual(begun);
      await end(product);
    });

    test("connections go on over SIGKILL though their server, or their frontend, left the configuration meanwhile", async () => {
      await using talker = await Talker.start(lab, lab.vip());
      const flows = new Busy(talker);
      {
        await using killed = await scene.balance();
        await flows.open(20);
        killed.process.child.kill("SIGKILL");
        await killed.process.exited;
      }
      {
        await using fewer = await scene.balance({ weights: { server1: null, server2: null } });
        await fewer.process.waitFor(/took over 20 flows of a killed balancer"/);
        await flows.rounds(5);
        fewer.process.child.kill("SIGKILL");
        await fewer.process.exited;
      }
      await using without = await scene.balance({ without: ["talk_v4"] });
      await without.process.waitFor(/took over 20 flows of a killed balancer"/);
      expect(await flows.lost()).toBe(0);
      await using late = await Talker.start(lab, lab.vip());
      expect((await late.ask({ do: "open", count: 3 })).failed, "new connections to it").toBe(3);
      expect((await talker.ask({ do: "close" })).ok).toBe(20);
      await end(without);
      expect(await hostState(lab, "balancer")).toBe(before);
      expect(await leftBehind(scene, [without])).toEqual([]);
    }, 180_000);

    test("a balancer that was stopped in order leaves no flows, and the next one has the workers it is asked for", async () => {
      await using talker = await Talker.start(lab, lab.vip());
      {
        await using stopped = await scene.balance();
        expect((await talker.ask({ do: "open", count: 5 })).ok).toBe(5);
        await end(stopped);
        expect(await leftBehind(scene, [stopped])).toEqual([]);
      }
      await using product = await scene.balance({ workers: 3 });
      expect(await current(product)).toBe(0);
      await end(product);
      expect(await hostState(lab, "balancer")).toBe(before);
    });

    // Both methods of DSR are one program in this.
    if (method === "l2") return;
    test("with the program's event loop blocked for 10 s, old flows and new ones are served as ever", async () => {
      await using talker = await Talker.start(lab, lab.vip());
      const { stats: _, ...config } = parse(scene.configuration()) as Record<string, unknown>;
      const program = join(ROOT, "__test__/net/lab/blocked-balancer.ts");
      const command = [process.execPath, "--import", join(ROOT, "__test__/support/typescript.mjs")];
      await using blocked = start([...scene.prefix(), ...command, program, JSON.stringify(config)], {
        stdin: true,
        cwd: ROOT,
      });
      await blocked.waitFor(/ready/, 20_000);
      expect((await talker.ask({ do: "open", count: 10 })).ok).toBe(10);
      blocked.child.stdin?.write("10000\n");
      await sleep(200);
      const end = performance.now() + 9_000;
      let rounds = 0;
      while (performance.now() < end) {
        expect((await talker.ask({ do: "ping" })).ok).toBe(10);
        expect((await talker.ask({ do: "churn", count: 10, concurrency: 5, seed: rounds })).ok).toBe(10);
        rounds += 1;
      }
      expect(blocked.stdout).not.toContain("awake");
      expect(rounds).toBeGreaterThan(10);
      await blocked.waitFor(/awake/);
      expect(await answers(lab, lab.vip())).toBe(true);
      blocked.child.stdin?.end();
      await until(
        () => !blocked.running,
        "the end of the program",
        10_000,
        () => blocked.output(),
      );
      expect(await blocked.exited).toEqual({ code: 0, signal: null });
    }, 40_000);
  });
}
