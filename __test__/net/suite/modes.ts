/** What every method of the packet modes owes its users, whichever way the balancer stands in the network. */
import { setTimeout as sleep } from "node:timers/promises";
import { aroundAll, describe, expect, test } from "vitest";
import type { Stats } from "../../../ts/index.ts";
import type { Product } from "../../support/convey.ts";
import { finish, until } from "../../support/processes.ts";
import { saidByKernel, watchKernel } from "../lab/kernel-watch.ts";
import { FAMILIES, type Family, type PacketLab, SERVERS } from "../lab/lab.ts";
import { counted, kernelCounter, packets, reconfigure, type Scene, type Stage } from "../lab/scene.ts";
import { BLOB_BYTES } from "../lab/servers.ts";
import { TALK, Talker } from "../lab/talk.ts";
import { answers, fiftyMebibytesEachWay, meetsEveryServer, names, pings } from "../lab/traffic.ts";

/** Registers the cases. They change the lab for good in the end. */
export function modes({ method, arms, scene: standing }: Stage): void {
  describe("at work", () => {
    const nat = method === "passthrough";
    let scene: Scene;
    let lab: PacketLab;
    let product: Product;
    let talker: Talker;
    let talker6: Talker;

    aroundAll(async (runTests) => {
      const stands = standing();
      if (stands === undefined) return runTests();
      scene = stands;
      lab = scene.lab;
      await using running = await scene.balance();
      product = running;
      await watchKernel(lab, { connects: method !== "l2" });
      await using client = await Talker.start(lab, lab.vip());
      await using client6 = await Talker.start(lab, lab.vip("v6"));
      [talker, talker6] = [client, client6];
      await runTests();
    }, 60_000);

    test("the first connection after the kernel forgot every neighbour is not kept waiting", async () => {
      await lab.sh("balancer", "ip neigh flush all");
      // TCP tries again after a second.
      expect(await answers(lab, lab.vip(), 0.7)).toBe(true);
    });

    if (nat) {
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
    } else {
      test("answers pass the balancer by", async () => {
        const bytes = await bytesThrough(lab, async () => {
          await lab.sh("client", `curl -sS http://${lab.vip()}/blob -o /dev/null`);
        });
        // Acknowledgements cross it, the 50 MiB do not.
        expect(bytes).toBeGreaterThan(0);
        expect(bytes).toBeLessThan(10 * 1024 * 1024);
      });
    }

    for (const family of FAMILIES) {
      test(`connections over ${family} reach every server and none is lost`, async () => {
        const counts = await names(lab, lab.vip(family), 40);
        expect(Object.keys(counts).sort()).toEqual([...SERVERS]);
        expect(Object.values(counts).reduce((a, b) => a + b)).toBe(40);
      });
    }

    for (const family of FAMILIES) {
      test(`50 MiB each way over ${family} arrive unchanged and are counted exactly; whole super-frames; live counters`, async () => {
        const before = await product.stats();
        const again = await retransmitted(lab);
        await fiftyMebibytesEachWay(lab, scene.services, lab.vip(family));
        const repeats = (await retransmitted(lab)) - again;
        const after = await product.stats();
        const grown = (name: string, what: "bytes_tx" | "bytes_rx" | "total_connections") =>
          (after.frontends[name]?.[what] ?? 0) - (before.frontends[name]?.[what] ?? 0);
        const tx = grown(`sink_${family}`, "bytes_tx");
        const rx = grown(`http_${family}`, "bytes_rx");
        // A segment that is sent again crosses the balancer again.
        expect(tx).toBeGreaterThanOrEqual(BLOB_BYTES);
        if (repeats === 0) expect(tx).toBe(BLOB_BYTES);
        else expect(tx).toBeLessThanOrEqual(BLOB_BYTES + repeats * 65_536);
        if (!nat) expect([rx, grown(`sink_${family}`, "bytes_rx")]).toEqual([0, 0]);
        else if (repeats === 0) expect(rx).toBeGreaterThan(BLOB_BYTES);
        if (nat) expect(rx).toBeLessThan(BLOB_BYTES + 1000 + repeats * 65_536);
        expect(grown(`sink_${family}`, "total_connections")).toBe(1);
        expect(after.backends[`sink_${family}`]?.bytes_tx).toBe(after.frontends[`sink_${family}`]?.bytes_tx);
      });
    }

    test("the server speaks first, and 300 connections of random length and end leave no gauge above zero; counters after resets", async () => {
      const begun = (await product.stats()).frontends.talk_v4?.total_connections ?? 0;
      const done = await talker.ask({ do: "churn", count: 300, concurrency: 50, seed: 7 }, 60_000);
      expect({ ok: done.ok, names: done.names }).toEqual({ ok: 300, names: [...SERVERS] });
      const stats = await settled(product);
      expect((stats.frontends.talk_v4?.total_connections ?? 0) - begun).toBe(300);
      expect(stats.current_connections).toBe(0);
      for (const backend of Object.values(stats.backends)) {
        expect(backend.current_connections).toBe(0);
        for (const server of Object.values(backend.server_details)) {
          expect(server.current_connections).toBe(0);
        }
      }
    });

    test("half-close from either side: the other direction still carries data", async () => {
      const done = await talker.ask({ do: "half", bytes: 300_000 });
      expect(done.ok).toBe(1);
      const heard = () => SERVERS.some((s) => scene.talkers.on[s].stdout.includes("half-closed 300000"));
      await until(heard, "300000 bytes after the server's FIN");
      // The client's FIN first: `sink` answers with a digest after it, which C1 compares.
    });

    test("connections are spread by weight; zero gets none and comes back; not at random", async () => {
      await reconfigure(product, scene.configuration({ weights: { server1: 1, server2: 2, server3: 0 } }));
      const { talks } = await talker.ask({ do: "open", count: 150 });
      expect(talks).toHaveLength(150);
      const counts: Record<string, number> = {};
      for (const { name } of talks) counts[name] = (counts[name] ?? 0) + 1;
      await talker.ask({ do: "reset" });
      expect(counts.server3).toBeUndefined();
      // Two thirds of 150 is 100; a hash of ports is as good as a draw, 4.5 standard deviations are 26.
      expect(Math.abs((counts.server2 ?? 0) - 100)).toBeLessThan(26);
      await reconfigure(product, scene.configuration());
      await meetsEveryServer(lab, product);
    });

    test("flows stay with their server across reload, add and removal; nothing is reset; no other server's flows move", async () => {
      await reconfigure(product, scene.configuration({ weights: { server3: null } }));
      const opened = await talker.ask({ do: "open", count: 60 });
      expect(opened.ok).toBe(60);
      expect([...new Set(opened.talks.map((t) => t.name))].sort()).toEqual(["server1", "server2"]);
      await reconfigure(product, scene.configuration());
      expect((await talker.ask({ do: "ping" })).ok, "after a server was added").toBe(60);
      await reconfigure(product, scene.configuration({ weights: { server1: 0 } }));
      expect((await talker.ask({ do: "ping" })).ok, "while a server is drained").toBe(60);
      await reconfigure(product, scene.configuration({ weights: { server1: null } }));
      expect((await talker.ask({ do: "ping" })).ok, "after its removal").toBe(60);
      expect(Object.keys(await names(lab, lab.vip(), 30))).not.toContain("server1");
      const stats = await product.stats();
      expect(stats.current_connections).toBeGreaterThan(0);
      expect((await talker.ask({ do: "close" })).ok).toBe(60);
      await reconfigure(product, scene.configuration());
      // In DSR the end of a flow takes its time (C2).
      if (nat) await settled(product);
    });

    for (const family of FAMILIES) {
      test(`UDP over ${family}: an empty datagram, 0, 1 and 20 answers, DNS-like queries; each answer comes once`, async () => {
        const client = family === "v4" ? talker : talker6;
        const ask = async (wanted: number, ...texts: string[]) =>
          (await client.ask({ do: "datagrams", texts, waitMs: 100, wanted })).answers?.sort();
        expect(await ask(1, "")).toEqual([""]);
        expect(await ask(0, "n:0:none")).toEqual([]);
        expect(await ask(1, "n:1:a")).toEqual(["a#0"]);
        expect(await ask(20, "n:20:b")).toHaveLength(20);
        expect(await ask(1, "x".repeat(1400))).toEqual(["x".repeat(1400)]);
        const queries = Array.from({ length: 100 }, (_, i) => `query ${i} a.example`);
        expect(await ask(100, ...queries)).toEqual([...queries].sort());
      });
    }

    // What a second interface cannot change is asked of one lab only.
    if (arms === "one-arm") {
      test("a bad address in a changed file is refused and the old configuration serves on", async () => {
        product.replace(scene.configuration().replace(lab.server("server1"), "10.78.2.999"));
        const status = await until(async () => {
          const { last_reload } = await product.stats();
          return last_reload?.result === "rejected" && last_reload;
        }, "a rejected reload");
        expect(status.message).toContain("10.78.2.999");
        await meetsEveryServer(lab, product);
        product.replace(scene.configuration());
        await until(
          async () => (await product.stats()).last_reload?.result !== "rejected",
          "a good file again",
        );
      });

      test("with no server to give it to a connection is reset, a datagram dropped, and both are counted", async () => {
        await reconfigure(product, scene.configuration({ weights: { server1: 0, server2: 0, server3: 0 } }));
        const begun = performance.now();
        const refused = await talker.ask({ do: "open", count: 5 });
        expect([refused.ok, refused.failed]).toEqual([0, 5]);
        expect(performance.now() - begun).toBeLessThan(1000);
        expect((await talker.ask({ do: "datagrams", texts: ["x", "y"], waitMs: 300 })).answers).toEqual([]);
        const { frontends } = await product.stats();
        expect(frontends.talk_v4?.reasons.no_server).toBe(5);
        expect(frontends.talk_udp_v4?.reasons.no_server).toBe(2);
        await reconfigure(product, scene.configuration());
        expect((await talker.ask({ do: "open", count: 5 })).ok).toBe(5);
        await talker.ask({ do: "close" });
      });

      for (const family of FAMILIES) {
        test(`UDP over ${family}: datagrams in fragments are answered in fragments, many at once; the balancer's kernel keeps none`, async () => {
          const client = family === "v4" ? talker : talker6;
          const begun = (stats: Stats) => stats.packets?.noted.datagram_begun ?? 0;
          const before = begun(await product.stats());
          const kept = await keptFragments(lab, family);
          const texts = Array.from({ length: 40 }, (_, i) => `${i} `.padEnd(3000, "y"));
          const wanted = texts.length;
          const done = await client.ask({ do: "datagrams", texts, waitMs: 100, wanted });
          expect(done.answers?.sort()).toEqual([...texts].sort());
          // Answers do not come by in DSR.
          expect(begun(await product.stats()) - before).toBe(nat ? 80 : 40);
          expect(await keptFragments(lab, family)).toBe(kept);
        });
      }

      test("400 datagrams of one flow arrive in order, and no new connection waits for a lost SYN-ACK", async () => {
        const texts = Array.from({ length: 400 }, (_, i) => `seq:${i}`);
        await using pinned = await Talker.start(lab, lab.vip(), "client", ["taskset", "-c", "0"]);
        const ordered = [...texts, "inversions"];
        const done = await lab.onOneProcessor(() =>
          pinned.ask({ do: "datagrams", texts: ordered, waitMs: 100, wanted: 1 }),
        );
        expect(done.answers).toEqual(["0"]);
        const quick = await talker.ask({ do: "again", localPort: 3501, times: 60, closer: "client" });
        expect(quick.ok).toBe(60);
        expect(quick.slowestMs).toBeLessThan(900);
      });

      test("a packet whose TTL ends here is answered with Time Exceeded, unless only its MACs change", async () => {
        const before = await product.stats();
        // The router takes one.
        await lab.sh("client", `echo late | socat -t0.3 - UDP4:${lab.vip()}:${TALK},ttl=2 || true`);
        await lab.sh(
          "client",
          `echo late | socat -t0.3 - UDP6:[${lab.vip("v6")}]:${TALK},ipv6-unicast-hops=2 || true`,
        );
        const after = await product.stats();
        expect(counted(after, "time_exceeded") - counted(before, "time_exceeded")).toBe(
          method === "l2" ? 0 : 2,
        );
      });

      test("what the servers see of the client, and what the balancer sees of the servers", async () => {
        const { talks } = await talker.ask({ do: "open", count: 3 });
        for (const talk of talks) {
          expect(talk.from).toBe(nat ? lab.vip() : lab.client());
          expect(talk.fromPort === talk.localPort).toBe(!nat);
          expect(talk.at).toBe(method === "l2" ? lab.vip() : lab.server(talk.name as "server1"));
        }
        await talker.ask({ do: "ping", bytes: 50_000 });
        await talker.ask({ do: "close" });
        const stats = await product.stats();
        expect(stats.return_path_visible).toBe(nat ? undefined : false);
        if (!nat) expect(stats.total_bytes_rx).toBe(0);
        else expect(stats.total_bytes_rx).toBeGreaterThan(150_000);
      });

      test("the host stays itself: ping, a port of its own, connections of its own", async () => {
        for (const family of FAMILIES) expect(await pings(lab, "client", lab.vip(family))).toBe(true);
        const own =
          "socat -T5 TCP-LISTEN:22,fork,reuseaddr SYSTEM:'echo SSH-2.0-host' & p=$!; trap 'kill $p' EXIT; sleep 0.2";
        const outside = await Promise.all([
          lab.sh("balancer", `${own}; sleep 1.2`),
          sleep(500).then(() => lab.sh("client", `socat -t0.5 - TCP4:${lab.vip()}:22 </dev/null`)),
          lab.sh("balancer", `curl -sS --max-time 3 http://${lab.server("server2")}/name`),
          lab.sh("balancer", `curl -gsS --max-time 3 http://[${lab.server("server2", "v6")}]/name`),
        ]);
        expect(outside.slice(1)).toEqual(["SSH-2.0-host\n", "server2", "server2"]);
        const nobody = await finish(
          lab.at("client", "curl", "-sS", "--max-time", "3", `http://${lab.vip()}:81/`),
        );
        expect(nobody.code, "curl's code for a refused connection").toBe(7);
      });

      test("of a server that goes silent, a client's next datagrams and a connect begun before the checks notice go to another", async () => {
        const whom = async () => {
          const texts = ["name", "name"];
          return (await talker.ask({ do: "datagrams", texts, waitMs: 250, localPort: 45_001 })).answers?.[0];
        };
        const first = await until(whom, "an answer", 10_000);
        const silent = SERVERS.find((name) => name === first) ?? "server1";
        await lab.sh(
          silent,
          "nft add table inet hole; nft 'add chain inet hole in { type filter hook input priority 0; policy drop; }'",
        );
        try {
          // Those that were sent to it come again after one and three seconds.
          const begun = await talker.ask({ do: "open", count: 12 });
          expect(begun.ok).toBe(12);
          expect(begun.talks.map(({ name }) => name)).not.toContain(silent);
          // Asked all the time, so that the flow never runs out.
          const other = await until(whom, "an answer from another server", 20_000);
          expect(other).not.toBe(silent);
          expect(await whom()).toBe(other);
        } finally {
          await lab.sh(silent, "nft delete table inet hole");
        }
        await until(async () => !(await somethingDown(product)), "all servers up again", 10_000);
        await talker.ask({ do: "reset" });
      }, 60_000);

      test("a server that is killed ends its flows within a second, one that goes silent loses only its own", async () => {
        const opened = await talker.ask({ do: "open", count: 30 });
        expect(opened.ok).toBe(30);
        const of = (name: string) => opened.talks.filter((t) => t.name === name).length;
        await lab.sh(
          "server2",
          `nft add table inet hole; nft 'add chain inet hole in { type filter hook input priority 0; }'; nft add rule inet hole in tcp dport ${TALK} drop`,
        );
        scene.talkers.on.server1.child.kill("SIGKILL");
        const ended = await until(
          async () => {
            const now = await talker.ask({ do: "ended" });
            return now.failed === of("server1") && now;
          },
          "the end of every flow of the killed server",
          2_000,
        );
        expect(ended.talks.every((t) => t.name === "server1")).toBe(true);
        const down = async () => {
          const details = (await product.stats()).backends.talk_v4?.server_details;
          return details?.server1?.up === false && details.server2?.up === false;
        };
        await until(down, "both servers down", 8_000);
        const fresh = await talker.ask({ do: "open", count: 10 });
        expect(fresh.talks.filter((t) => t.name !== "server3")).toEqual([]);
        expect(fresh.ok).toBe(10);
        await lab.sh("server2", "nft delete table inet hole");
        await scene.talkers.restart(lab, "server1", method === "l2");
        await until(async () => !(await somethingDown(product)), "all servers up again", 10_000);
        const pinged = await talker.ask({ do: "ping" });
        expect(pinged.ok, "every flow but the killed server's").toBe(40 - of("server1"));
        await talker.ask({ do: "reset" });
      }, 40_000);
    }

    test("health checks were answered all along, and the balancer's kernel has reset nothing", async () => {
      const stats = await product.stats();
      for (const backend of Object.values(stats.backends)) {
        for (const { up, last_check } of Object.values(backend.server_details)) {
          expect({ up, ok: last_check?.ok }).toEqual({ up: true, ok: true });
        }
      }
      expect(await saidByKernel(lab)).toEqual([]);
    });

    test("no packet was lost on the way through, and no worker panicked", async () => {
      const { dropped } = packets(await product.stats());
      expect(Object.keys(dropped).filter((reason) => /^[rt]x_|no_next_hop/.test(reason))).toEqual([]);
      expect(product.process.stderr).not.toMatch(/panic/);
    });

    // From here on the lab is changed for good.
    test("50 MiB each way when the balancer's kernel completes checksums itself; sums are adjusted, not made up", async () => {
      await lab.offload("balancer", "tx off");
      for (const family of FAMILIES) await fiftyMebibytesEachWay(lab, scene.services, lab.vip(family));
      expect((await talker.ask({ do: "churn", count: 100, concurrency: 20, seed: 3 })).ok).toBe(100);
    });

    test("50 MiB each way through a path MTU of 1280 behind the router; servers are told of it", async () => {
      await lab.pathMtu(1280);
      for (const family of FAMILIES) {
        await fiftyMebibytesEachWay(lab, scene.services, lab.vip(family));
        const peer = nat ? lab.vip(family) : lab.client(family);
        const from = method === "l2" ? `from ${lab.vip(family)}` : "";
        const learnt = await Promise.all(SERVERS.map((s) => lab.sh(s, `ip route get ${peer} ${from}`)));
        expect(learnt.join("\n")).toContain("mtu 1280");
      }
    });

    test("50 MiB each way with every offload off", async () => {
      await lab.offloadsOff();
      for (const family of FAMILIES) await fiftyMebibytesEachWay(lab, scene.services, lab.vip(family));
    });

    test("a server that changes its MAC address is reached again within a second", async () => {
      for (const [i, place] of SERVERS.entries()) {
        await lab.sh(place, `ip link set ${lab.device(place)} address 02:00:00:00:77:0${i}`);
      }
      await sleep(1000);
      await meetsEveryServer(lab, product);
    });

    if (nat) {
      test("a router that changes its MAC address gets answers again within a second", async () => {
        await lab.sh("router", "ip link set front address 02:00:00:00:77:fe");
        await sleep(1000);
        expect(await answers(lab, lab.vip(), 1)).toBe(true);
      });
    }

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

/** Fragments that the balancer's kernel took in to put them together. */
async function keptFragments(lab: PacketLab, family: Family): Promise<number> {
  if (family === "v4") return kernelCounter(lab, "balancer", "Ip", "ReasmReqds");
  return Number((await lab.sh("balancer", "grep ^Ip6ReasmReqds /proc/net/snmp6")).split(/\s+/)[1]);
}

/** Segments sent again by anybody so far. */
async function retransmitted(lab: PacketLab): Promise<number> {
  const all = await Promise.all(
    (["client", ...SERVERS] as const).map((place) => kernelCounter(lab, place, "Tcp", "RetransSegs")),
  );
  return all.reduce((a, b) => a + b);
}

/** The counters once no connection is open; a FIN on its way is waited for. */
async function settled(product: Product): Promise<Stats> {
  let seen = "";
  return until(
    async () => {
      const stats = await product.stats();
      seen = JSON.stringify(
        Object.entries(stats.frontends).map(([name, f]) => [name, f.current_connections]),
      );
      return stats.current_connections === 0 && stats;
    },
    "end of all connections",
    20_000,
    () => seen,
  );
}

async function somethingDown(product: Product): Promise<boolean> {
  return Object.values((await product.stats()).backends).some((b) =>
    Object.values(b.servers).includes(false),
  );
}

/** Bytes that enter the balancer while `work` is done. */
async function bytesThrough(lab: PacketLab, work: () => Promise<void>): Promise<number> {
  const count = async () => {
    const counters = await lab.sh("balancer", "cat /sys/class/net/*/statistics/rx_bytes");
    return counters
      .trim()
      .split("\n")
      .map(Number)
      .reduce((a, b) => a + b);
  };
  const before = await count();
  await work();
  return (await count()) - before;
}

/** What a network manager does when a link comes back: the kernel forgot the routes and IPv6 addresses. */
async function restoreDefaults(lab: PacketLab, routes: string): Promise<void> {
  const [v4, v6] = routes.split("\n");
  await lab.sh("balancer", `ip route replace ${v4 ?? ""}; ip -6 route replace ${v6 ?? ""} || true`);
}
