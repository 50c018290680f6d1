/** Who may begin flows in the packet modes: lists of networks at a frontend, with a client that has several addresses. */
import { aroundAll, describe, expect, test } from "vitest";
import { finish, until } from "../../support/processes.ts";
import { FAMILIES, type Family, type PacketLab } from "../lab/lab.ts";
import { counted, reconfigure, type Scene, type Stage } from "../lab/scene.ts";
import { HTTP } from "../lab/servers.ts";
import { Talker } from "../lab/talk.ts";

/** Further addresses of the client, by the last part. */
const CLIENTS = [50, 64, 77, 100];
const PREFIX: Record<Family, string> = { v4: "10.78.1.", v6: "fd78:1::" };

/** Registers the cases. Each starts balancers of its own and leaves the lab as it was. */
export function access({ method, scene: standing }: Stage): void {
  describe("lists of networks", () => {
    let scene: Scene;
    let lab: PacketLab;

    aroundAll(async (runTests) => {
      const stands = standing();
      if (stands === undefined) return runTests();
      scene = stands;
      lab = scene.lab;
      const addresses = (verb: string) =>
        CLIENTS.flatMap((n) => [
          `ip address ${verb} 10.78.1.${n}/24 dev far`,
          // Not the source of connections that ask for none.
          `ip address ${verb} fd78:1::${n}/64 dev far ${verb === "add" ? "nodad preferred_lft 0" : ""}`,
        ]).join("\n");
      await lab.sh("client", addresses("add"));
      await runTests();
      await lab.sh("client", addresses("del"));
    }, 60_000);

    /** The configuration with these lines at every frontend. */
    const lists = (...lines: string[]): string =>
      scene.configuration().replaceAll(/^(\[frontends\..*\])$/gm, (header) => [header, ...lines].join("\n"));

    async function isServed(family: Family, host: number): Promise<boolean> {
      const vip = lab.vip(family);
      const url = `http://${vip.includes(":") ? `[${vip}]` : vip}:${HTTP}/name`;
      const from = ["--interface", `${PREFIX[family]}${host}`];
      const done = await finish(lab.at("client", "curl", "-gsS", "--max-time", "1", ...from, url));
      // Whoever is denied hears nothing: 28 is curl's code for a time that is over.
      if (done.code !== 0) expect(done.code).toBe(28);
      return done.code === 0;
    }

    for (const family of FAMILIES) {
      test(`over ${family} the longest network decides, others are refused where some are allowed, and a denied client hears nothing`, async () => {
        const [allow, deny] = {
          v4: [["10.78.1.0/25", "10.78.1.77"], ["10.78.1.64/26"]] as const,
          v6: [
            ["fd78:1::/64", "fd78:1::77"],
            ["fd78:1::64", "fd78:1::60/124", "fd78:1::100/120"],
          ] as const,
        }[family];
        await using product = await scene.run(
          lists(`allow = ${JSON.stringify(allow)}`, `deny = ${JSON.stringify(deny)}`),
        );
        const served = await Promise.all([...CLIENTS, 2].map((host) => isServed(family, host)));
        expect(served).toEqual([true, false, true, false, true]);
        // The other family is in no list.
        const other = family === "v4" ? "v6" : "v4";
        expect(await isServed(other, 2)).toBe(false);
        const stats = await until(
          async () => {
            const now = await product.stats();
            return (now.frontends[`http_${other}`]?.reasons.denied ?? 0) > 0 && now;
          },
          "refusals that are counted",
          5000,
        );
        const denied = stats.frontends[`http_${family}`]?.reasons.denied ?? 0;
        expect(denied).toBeGreaterThanOrEqual(2);
        expect(counted(stats, "denied")).toBeGreaterThanOrEqual(denied);
        expect(stats.reasons.denied).toBeGreaterThanOrEqual(denied);
      });
    }

    test("a reload that denies a client leaves its connections and conversations until they end, and refuses new ones; another lets it in again", async () => {
      await using product = await scene.run(lists());
      await using talker = await Talker.start(lab, lab.vip());
      expect((await talker.ask({ do: "open", count: 20 })).ok).toBe(20);
      await reconfigure(product, lists('deny = ["10.78.1.0/24"]'));
      expect(await isServed("v4", 2)).toBe(false);
      expect(await isServed("v6", 2)).toBe(true);
      expect((await talker.ask({ do: "ping", bytes: 10_000 })).ok).toBe(20);
      expect((await talker.ask({ do: "datagrams", texts: ["n:1:a"], waitMs: 300 })).answers).toEqual([]);
      const { frontends } = await until(
        async () => {
          const now = await product.stats();
          return (now.frontends.talk_udp_v4?.reasons.denied ?? 0) > 0 && now;
        },
        "a datagram that is counted",
        5000,
      );
      expect(frontends.talk_v4?.reasons.denied ?? 0).toBe(0);
      await reconfigure(product, lists('deny = ["10.78.9.0/24"]'));
      expect(await isServed("v4", 2)).toBe(true);
      expect((await talker.ask({ do: "ping" })).ok).toBe(20);
      await talker.ask({ do: method === "passthrough" ? "close" : "reset" });
    });

    test("10,000 networks are in service within seconds, and a client is found among them", async () => {
      const networks = Array.from({ length: 10_000 }, (_, n) => `10.${100 + (n >> 8)}.${n & 255}.0/24`);
      await using product = await scene.run(lists());
      const begun = performance.now();
      await reconfigure(product, lists(`deny = ${JSON.stringify([...networks, "10.78.1.77"])}`));
      expect(performance.now() - begun).toBeLessThan(8000);
      expect(await isServed("v4", 77)).toBe(false);
      expect(await isServed("v4", 50)).toBe(true);
    });
  });
}
