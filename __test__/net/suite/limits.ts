/** The packet modes at their limits: few ports, small tables, floods. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { aroundAll, aroundEach, describe, expect, test } from "vitest";
import { memoryBytes, start } from "../../support/processes.ts";
import { random } from "../../support/sockets.ts";
import { example } from "../lab/examples.ts";
import { ethernet, FLAGS, tcp, udp } from "../lab/frames.ts";
import type { PacketLab } from "../lab/lab.ts";
import { counted, type Scene, type Stage } from "../lab/scene.ts";
import { type Conversation, TALK, Talker } from "../lab/talk.ts";

/** Registers the cases. Each starts balancers of its own; the router keeps a blackhole route. */
export function limits({ method, scene: standing }: Stage): void {
  describe("at its limits", () => {
    const nat = method === "passthrough";
    let scene: Scene;
    let lab: PacketLab;
    let talker: Talker;

    aroundAll(async (runTests) => {
      const stands = standing();
      if (stands === undefined) return runTests();
      await example("inject");
      scene = stands;
      lab = scene.lab;
      await runTests();
    }, 600_000);

    aroundEach(async (runTest) => {
      if (standing() === undefined) return runTest();
      await using client = await Talker.start(lab, lab.vip());
      talker = client;
      await runTest();
    });

    test("one source port used over and over never stalls on a resting tuple, whoever ends first", async () => {
      await using _product = await scene.balance({ ports: "40000-40015", workers: 1 });
      for (const [localPort, closer] of [
        [3600, "server"],
        [3601, "client"],
      ] as const) {
        const done = await talker.ask({ do: "again", localPort, times: 60, closer }, 60_000);
        expect({ ok: done.ok, errors: done.errors }, closer).toEqual({ ok: 60, errors: {} });
        expect(done.slowestMs, closer).toBeLessThan(900);
      }
    });

    if (nat) {
      test("with 16 ports a server no client ever gets another's bytes, and the one too many is refused and counted", async () => {
        await using product = await scene.balance({ ports: "40000-40015", workers: 1 });
        expect((await talker.ask({ do: "churn", count: 300, concurrency: 12, seed: 5 }, 60_000)).ok).toBe(
          300,
        );
        // A few at a time: of a burst, one SYN may take the port of another that is not confirmed yet.
        const opened: Conversation[] = [];
        let refused = 0;
        for (let i = 0; i < 25; i++) {
          const few = await talker.ask({ do: "open", count: 4 });
          opened.push(...few.talks);
          refused += few.failed;
          const { ECONNRESET = 0, ECONNREFUSED = 0 } = few.errors;
          expect(ECONNRESET + ECONNREFUSED, "refused at once").toBe(few.failed);
        }
        expect(opened.length).toBeLessThanOrEqual(48);
        expect(opened.length).toBeGreaterThan(30);
        const tuples = new Set(opened.map((t) => `${t.name} ${t.fromPort}`));
        expect(tuples.size, "no port towards a server is used twice").toBe(opened.length);
        expect((await talker.ask({ do: "ping", bytes: 10_000 })).ok).toBe(opened.length);
        expect((await product.stats()).frontends.talk_v4?.reasons.ports_exhausted).toBe(refused);
      });
    }

    test("a full flow table costs new flows, or the memory of idle ones, but never a conversation", async () => {
      await using product = await scene.balance({ capacity: 64, workers: 1 });
      // A quarter of the 128 entries may be half-open: of more than 32 that begin at once, some give way to others.
      for (let i = 0; i < 4; i++) expect((await talker.ask({ do: "open", count: 10 })).ok).toBe(10);
      await using crowd = await Talker.start(lab, lab.vip());
      const more = await crowd.ask({ do: "open", count: 300 });
      const stats = await product.stats();
      if (nat) {
        expect(more.failed).toBeGreaterThan(150);
        expect(counted(stats, "tcp_reset")).toBeGreaterThanOrEqual(more.failed);
      } else {
        // The server is found by hash where the flow is forgotten.
        expect(more.ok).toBe(300);
      }
      expect((await talker.ask({ do: "ping" })).ok).toBe(40);
      expect((await crowd.ask({ do: "ping" })).ok).toBe(more.ok);
      await crowd.ask({ do: "reset" });
    });

    test("beside a SYN flood, forged acknowledgements and datagrams 99 % of real clients are served, open flows stand, memory stays flat", async () => {
      await using product = await scene.balance({ capacity: 4096 });
      expect((await talker.ask({ do: "open", count: 50 })).ok).toBe(50);
      const pid = product.process.pid;
      const memory = memoryBytes([pid]);
      await using flooding = await flood(scene);
      await flooding.waitFor(/sent/);
      const done = await talker.ask({ do: "churn", count: 1000, concurrency: 10, seed: 9 }, 60_000);
      expect(flooding.running).toBe(true);
      expect(done.ok).toBeGreaterThanOrEqual(990);
      expect((await talker.ask({ do: "ping" })).ok).toBe(50);
      expect(memoryBytes([pid]) - memory).toBeLessThan(32 * 1024 * 1024);
      const { forwarded = 0 } = (await product.stats()).packets ?? {};
      expect(forwarded, "the flood did reach the balancer").toBeGreaterThan(10_000);
    }, 90_000);
  });
}

/** Packets from 10,000 sources that do not exist, half of them SYNs, some ten thousand a second, until it is disposed of. */
async function flood(scene: Scene) {
  const { lab } = scene;
  await lab.sh("router", "ip route replace blackhole 10.79.0.0/16");
  const to = await lab.mac("balancer", "front");
  const from = await lab.mac("router", "front");
  const next = random(5);
  const byte = () => Math.floor(next() * 250) + 1;
  const files: string[] = [];
  for (let i = 0; i < 10; i++) {
    const frames = Array.from({ length: 1000 }, (_, n) => {
      const between = {
        source: `10.79.${byte()}.${byte()}`,
        sourcePort: 1024 + Math.floor(next() * 60_000),
        destination: lab.vip(),
        destinationPort: TALK,
      };
      const [seq, ack] = [Math.floor(next() * 2 ** 32), Math.floor(next() * 2 ** 32)];
      if (n % 4 === 3) return udp({ ...between, payload: Buffer.from("n:0:") });
      if (n % 4 === 2) return tcp({ ...between, flags: FLAGS.ack, seq, ack });
      return tcp({ ...between, flags: FLAGS.syn, seq });
    }).map((ip) => ethernet(to, from, 0x0800, ip).toString("hex"));
    files.push(join(scene.services.folder, `flood${i}`));
    await writeFile(files.at(-1) ?? "", `${frames.join("\n")}\n`);
  }
  const loop = `while :; do for f in ${files.join(" ")}; do ${await example("inject")} front < $f; sleep 0.05; done; done`;
  return start(lab.at("router", "sh", "-c", loop));
}
