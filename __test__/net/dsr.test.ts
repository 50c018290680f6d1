/** Direct server return on the portable engine, both methods, in namespaces. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { lacking } from "../support/requirements.ts";
import { example, type PacketBalancer, startBalancer } from "./lab/balancer.ts";
import { answerAsVip, holdVip } from "./lab/dsr.ts";
import { type Arms, type Family, PacketLab, SERVERS } from "./lab/lab.ts";
import { ECHO, everything, HTTP, Services, SINK, TOOLS } from "./lab/servers.ts";
import { echo, fiftyMebibytesEachWay, names, pings } from "./lab/traffic.ts";

const missing = lacking({ root: true, tools: TOOLS });
const FAMILIES: readonly Family[] = ["v4", "v6"];
const SETTINGS = [
  { mode: "dsr", arms: "one-arm" },
  { mode: "dsr", arms: "two-arm" },
  { mode: "l2", arms: "one-arm" },
  { mode: "l2", arms: "two-arm" },
] as const satisfies readonly { mode: string; arms: Arms }[];

for (const { mode, arms } of SETTINGS) {
  describe(`${mode === "l2" ? "l2" : "rewrite"}, ${arms}`, () => {
    let lab: PacketLab;
    let services: Services;
    let balancer: PacketBalancer;

    beforeAll(async () => {
      if (missing !== undefined) return;
      await example("forward");
      lab = await PacketLab.create({ arms });
      await (mode === "l2" ? holdVip(lab) : answerAsVip(lab, [HTTP, SINK, ECHO]));
      services = await Services.start(lab, { echoFromVip: mode === "l2" });
      balancer = await startBalancer(lab, { mode, frontends: everything(lab) });
    }, 600_000);

    afterAll(async () => {
      await balancer?.[Symbol.asyncDispose]();
      await services?.[Symbol.asyncDispose]();
      await lab?.[Symbol.asyncDispose]();
    });

    beforeEach((context) => {
      if (missing !== undefined) context.skip(missing);
    });

    for (const family of FAMILIES) {
      test(`connections over ${family} reach every server and none is lost`, async () => {
        const counts = await names(lab, lab.vip(family), 60);
        expect(Object.keys(counts).sort()).toEqual([...SERVERS]);
        expect(Object.values(counts).reduce((a, b) => a + b)).toBe(60);
      });

      test(`50 MiB each way over ${family} arrive unchanged, offloads on`, async () => {
        await fiftyMebibytesEachWay(lab, services, lab.vip(family));
      });

      test(`a datagram over ${family} is answered, one of 1400 bytes too`, async () => {
        expect(await echo(lab, lab.vip(family), "who is there")).toBe("who is there");
        expect(await echo(lab, lab.vip(family), "x".repeat(1400))).toBe("x".repeat(1400));
      });
    }

    test("the server sees the client, and its answers pass the balancer by", async () => {
      const vip = lab.vip();
      expect((await lab.sh("client", `curl -sS http://${vip}/peer`)).replace("::ffff:", "")).toBe(
        lab.client(),
      );
      const bytes = await bytesThrough(lab, async () => {
        await lab.sh("client", `curl -sS http://${vip}/blob -o /dev/null`);
      });
      // Acknowledgements cross it, the 50 MiB do not.
      expect(bytes).toBeGreaterThan(0);
      expect(bytes).toBeLessThan(10 * 1024 * 1024);
    });

    test("the host itself still answers ping", async () => {
      for (const family of FAMILIES) expect(await pings(lab, "client", lab.vip(family)), family).toBe(true);
    });

    test("nothing was lost and no worker panicked", async () => {
      const { dropped, panics } = await balancer.stats();
      expect(panics).toBe(0);
      expect(Object.keys(dropped).filter((reason) => /^[rt]x_|no_next_hop/.test(reason))).toEqual([]);
    });

    // From here on the lab is changed for good.
    test("50 MiB each way arrive unchanged when the balancer's kernel completes checksums itself", async () => {
      await lab.offload("balancer", "tx off");
      for (const family of FAMILIES) await fiftyMebibytesEachWay(lab, services, lab.vip(family));
    });

    test("50 MiB each way arrive unchanged through a path MTU of 1280 behind the router", async () => {
      await lab.pathMtu(1280);
      for (const family of FAMILIES) {
        await fiftyMebibytesEachWay(lab, services, lab.vip(family));
        const from = mode === "l2" ? `from ${lab.vip(family)}` : "";
        const route = `ip route get ${lab.client(family)} ${from}`;
        const learnt = await Promise.all(SERVERS.map((s) => lab.sh(s, route)));
        expect(learnt.join("\n"), "a server was told by an ICMP error sent to the VIP").toContain("mtu 1280");
      }
    });

    test("50 MiB each way arrive unchanged with every offload off", async () => {
      await lab.offloadsOff();
      for (const family of FAMILIES) await fiftyMebibytesEachWay(lab, services, lab.vip(family));
    });
  });
}

/** Bytes that enter the balancer while `work` is done. */
async function bytesThrough(lab: PacketLab, work: () => Promise<void>): Promise<number> {
  const count = async () =>
    Number(
      await lab.sh(
        "balancer",
        "cat /sys/class/net/*/statistics/rx_bytes | paste -sd+ | tr -d ' ' | { read s; echo $(($s)); }",
      ),
    );
  const before = await count();
  await work();
  return (await count()) - before;
}
