/** How a balancer of the packet modes comes and goes, and what it leaves of the host and of its flows. */
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parse } from "smol-toml";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { CONVEY } from "../support/peers.ts";
import { finish, start, until } from "../support/processes.ts";
import { lacking } from "../support/requirements.ts";
import { METHODS, Scene } from "./lab/cli.ts";
import { hostState } from "./lab/host-state.ts";
import { type PacketLab, SERVERS } from "./lab/lab.ts";
import { TOOLS } from "./lab/servers.ts";
import { Talker } from "./lab/talk.ts";
import { answers, names } from "./lab/traffic.ts";

const missing = lacking({ root: true, tools: TOOLS });
const ROOT = resolve(import.meta.dirname, "../..");

for (const method of METHODS) {
  describe(method, () => {
    const nat = method === "passthrough";
    let scene: Scene;
    let lab: PacketLab;
    let before: string;

    beforeAll(async () => {
      if (missing !== undefined) return;
      scene = await Scene.create(method);
      lab = scene.lab;
      // Somebody else's, which must survive.
      await lab.sh("balancer", "nft add table inet theirs; nft add chain inet theirs kept");
      await lab.sh("balancer", "sysctl -qw net.ipv4.ip_local_reserved_ports=8443,40100-40110");
      before = await hostState(lab, "balancer");
    }, 60_000);

    afterAll(async () => {
      await scene?.[Symbol.asyncDispose]();
    });

    beforeEach((context) => {
      if (missing !== undefined) context.skip(missing);
    });

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
      expect(Object.keys(await names(lab, lab.vip(), 20)).sort()).toEqual([...SERVERS]);
      await product.process.stop("SIGTERM", 8_000);
      expect(await hostState(lab, "balancer")).toBe(before);
    });

    test("busy flows over SIGKILL and the next start: they go on (DSR) or are reset at once (passthrough), and nothing is left in the end", async () => {
      await using talker = await Talker.start(lab, lab.vip());
      let [over, lost, rounds] = [false, 0, 0];
      // Every flow has something to say all the time, so also while no balancer runs.
      const busy = async () => {
        for (; !over; rounds += 1) {
          lost += (await talker.ask({ do: "ping" })).failed;
          await sleep(5);
        }
      };
      let flows: Promise<void>;
      {
        await using killed = await scene.balance();
        expect((await talker.ask({ do: "open", count: 20 })).ok).toBe(20);
        flows = busy();
        await until(() => rounds > 5, "flows at work");
        killed.process.child.kill("SIGKILL");
        await killed.process.exited;
      }
      await sleep(500);
      await using product = await scene.balance();
      const before_restart = rounds;
      if (nat) {
        await until(() => lost >= 20, "the resets", 2_000);
      } else {
        await until(() => rounds > before_restart + 5, "answers again", 10_000);
        expect(lost, "flows that did not survive").toBe(0);
      }
      over = true;
      await flows;
      if (!nat) expect((await talker.ask({ do: "close" })).ok).toBe(20);
      expect(Object.keys(await names(lab, lab.vip(), 30)).sort()).toEqual([...SERVERS]);
      await product.process.stop("SIGTERM", 8_000);
      expect(await hostState(lab, "balancer")).toBe(before);
    });

    // Both methods of DSR are one program in this.
    if (method === "l2") return;
    test("with the program's event loop blocked for 10 s, old flows and new ones are served as ever", async () => {
      await using talker = await Talker.start(lab, lab.vip());
      const { stats: _, ...config } = parse(scene.configuration()) as Record<string, unknown>;
      const program = join(import.meta.dirname, "lab/blocked-balancer.ts");
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
