/** Passthrough on the portable engine: real clients and servers, through a router, in namespaces. */
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { finish } from "../support/processes.ts";
import { lacking } from "../support/requirements.ts";
import { example, type PacketBalancer, startBalancer } from "./lab/balancer.ts";
import { type Arms, type Family, PacketLab, SERVERS } from "./lab/lab.ts";
import { everything, Services, TOOLS } from "./lab/servers.ts";
import { answers, echo, fiftyMebibytesEachWay, names, pings } from "./lab/traffic.ts";

const missing = lacking({ root: true, tools: TOOLS });
const FAMILIES: readonly Family[] = ["v4", "v6"];

for (const arms of ["one-arm", "two-arm"] as const satisfies readonly Arms[]) {
  describe(`passthrough, ${arms}`, () => {
    let lab: PacketLab;
    let services: Services;
    let balancer: PacketBalancer;

    beforeAll(async () => {
      if (missing !== undefined) return;
      await example("forward");
      lab = await PacketLab.create({ arms });
      services = await Services.start(lab);
      balancer = await startBalancer(lab, { mode: "passthrough", frontends: everything(lab) });
    }, 600_000);

    afterAll(async () => {
      await balancer?.[Symbol.asyncDispose]();
      await services?.[Symbol.asyncDispose]();
      await lab?.[Symbol.asyncDispose]();
    });

    beforeEach((context) => {
      if (missing !== undefined) context.skip(missing);
    });

    test("the first connection after the start is not kept waiting for a neighbour", async () => {
      expect(await answers(lab, lab.vip(), 0.5)).toBe(true);
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

    test("a client on the link that the kernel never heard of is answered without a retransmission", async () => {
      const stranger = "10.78.2.77";
      const mac = await lab.mac("balancer", "front");
      await lab.sh(
        "router",
        `ip address add ${stranger}/32 dev front
         ip neigh replace ${lab.vip()} lladdr ${mac} dev front nud permanent`,
      );
      expect(await lab.sh("balancer", "ip neigh show")).not.toContain(stranger);
      const url = `http://${lab.vip()}/name`;
      // TCP tries again after a second.
      const name = await lab.sh("router", `curl -sS --max-time 0.7 --interface ${stranger} ${url}`);
      expect(SERVERS).toContain(name);
    });

    test("the server sees the balancer, not the client", async () => {
      const peer = await lab.sh("client", `curl -sS http://${lab.vip()}/peer`);
      expect(peer.replace("::ffff:", "")).toBe(lab.vip());
    });

    test("the host itself still answers ping and refuses a port nobody serves", async () => {
      expect(await pings(lab, "client", lab.vip())).toBe(true);
      expect(await pings(lab, "client", lab.vip("v6"))).toBe(true);
      const done = await finish(
        lab.at("client", "curl", "-sS", "--max-time", "3", `http://${lab.vip()}:81/`),
      );
      expect(done.code, "curl's code for a refused connection").toBe(7);
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
        const learnt = await Promise.all(SERVERS.map((s) => lab.sh(s, `ip route get ${lab.vip(family)}`)));
        expect(learnt.join("\n"), "a server was told by a translated ICMP error").toContain("mtu 1280");
      }
    });

    test("50 MiB each way arrive unchanged with every offload off", async () => {
      await lab.offloadsOff();
      for (const family of FAMILIES) await fiftyMebibytesEachWay(lab, services, lab.vip(family));
    });

    test("a server that changes its MAC address is reached again within a second", async () => {
      await changeMacs(lab);
      await sleep(1000);
      const counts = await names(lab, lab.vip(), 30);
      expect(Object.keys(counts).sort()).toEqual([...SERVERS]);
    });

    test("a link that went down forwards again within a second of coming up", async () => {
      const device = lab.balancerDevices().at(-1) ?? "front";
      const routes = await lab.sh("balancer", "ip route show default; ip -6 route show default");
      await lab.sh("balancer", `ip link set ${device} down; sleep 0.5; ip link set ${device} up`);
      await restoreDefaults(lab, routes);
      await sleep(1000);
      expect(await answers(lab, lab.vip(), 1)).toBe(true);
    });
  });
}

/** New link-layer addresses for all servers, without any announcement. */
async function changeMacs(lab: PacketLab): Promise<void> {
  for (const [i, place] of SERVERS.entries()) {
    await lab.sh(place, `ip link set ${lab.device(place)} address 02:00:00:00:77:0${i}`);
  }
}

/** What a network manager does when a link comes back: the kernel forgot the routes and IPv6 addresses. */
async function restoreDefaults(lab: PacketLab, routes: string): Promise<void> {
  const [v4, v6] = routes.split("\n");
  await lab.sh("balancer", `ip route replace ${v4 ?? ""}; ip -6 route replace ${v6 ?? ""} || true`);
}
