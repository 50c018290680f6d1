/** The packet modes frame by frame, through the command line: what hostile and odd packets meet, on the wire. */
import { setTimeout as sleep } from "node:timers/promises";
import { aroundAll, describe, expect, test } from "vitest";
import type { Stats } from "../../../ts/index.ts";
import type { Product } from "../../support/convey.ts";
import { until } from "../../support/processes.ts";
import { random } from "../../support/sockets.ts";
import { example } from "../lab/examples.ts";
import {
  captured,
  dissect,
  ethernet,
  FLAGS,
  fragments,
  inject,
  ipv4,
  type TcpSpec,
  tcp,
  transportError,
  udp,
  unreachable,
} from "../lab/frames.ts";
import { type PacketLab, SERVERS } from "../lab/lab.ts";
import { counted, packets, type Stage } from "../lab/scene.ts";
import { HTTP } from "../lab/servers.ts";
import { TALK, Talker } from "../lab/talk.ts";

/** A client that only exists in frames: nothing answers for it. */
const GHOST = "10.78.1.77";
const IPV4 = 0x0800;
const IPV6 = 0x86dd;

/** Registers the cases. They leave the lab as it was, but for a blackhole route on the router. */
export function frames({ method, scene: standing }: Stage): void {
  describe("frame by frame", () => {
    const nat = method === "passthrough";
    let lab: PacketLab;
    let product: Product;
    let macs: { balancer: string; router: string };

    aroundAll(async (runTests) => {
      const scene = standing();
      if (scene === undefined) return runTests();
      await example("inject");
      lab = scene.lab;
      await using running = await scene.balance({ workers: 1 });
      product = running;
      macs = { balancer: await lab.mac("balancer", "front"), router: await lab.mac("router", "front") };
      // So that servers' answers to the ghost end at the router.
      await lab.sh("router", `ip route replace blackhole ${GHOST}/32`);
      await runTests();
    }, 600_000);

    /** Frames with these packets reach the balancer as if the router had sent them. */
    const send = (...ips: Buffer[]) =>
      inject(
        lab,
        "router",
        "front",
        ips.map((ip) => ethernet(macs.balancer, macs.router, IPV4, ip)),
      );
    const toTalk = (more: Partial<TcpSpec> = {}) => ({
      source: GHOST,
      sourcePort: 5000,
      destination: lab.vip(),
      destinationPort: TALK,
      ...more,
    });
    /** Counters that grew while `work` was done. */
    const growth = async (work: () => Promise<unknown>) => {
      const before = await product.stats();
      await work();
      const after = await product.stats();
      return (reason: string) => counted(after, reason) - counted(before, reason);
    };
    /** What arrives at the servers' devices. */
    const atServers = async (filter: string, work: () => Promise<unknown>) => {
      const [one, two, three] = SERVERS;
      const frames: Buffer[] = [];
      frames.push(
        ...(await captured(lab, one, "front", filter, async () => {
          frames.push(
            ...(await captured(lab, two, "front", filter, async () => {
              frames.push(...(await captured(lab, three, "front", filter, work)));
            })),
          );
        })),
      );
      return frames;
    };

    test("addresses, ports, TTL and checksum on the wire; padding is no payload; TTL is decremented", async () => {
      const datagram = udp({ ...toTalk({ sourcePort: 5001 }), payload: Buffer.from("n:0:x"), ttl: 37 });
      const padded = Buffer.concat([datagram, Buffer.alloc(60 - 14 - datagram.length, 0xee)]);
      const arrived = await atServers("udp", () => send(padded));
      expect(arrived).toHaveLength(1);
      const [frame = Buffer.alloc(0)] = arrived;
      const seen = dissect(frame);
      expect(seen.total).toBe(33);
      expect(seen.transport.subarray(8).toString()).toBe("n:0:x");
      expect(seen.ttl).toBe(method === "l2" ? 37 : 36);
      expect(seen.source).toBe(nat ? lab.vip() : GHOST);
      expect(method === "l2" ? [lab.vip()] : SERVERS.map((s) => lab.server(s))).toContain(seen.destination);
      expect(seen.headerSum).toBe(0);
      expect(transportError(frame)).toBe(0);
      if (method === "l2") expect(frame.subarray(14, 14 + datagram.length)).toEqual(datagram);
    });

    test("a frame for another host's address, which a switch floods, is left alone", async () => {
      const forwarded = async () => (await product.stats()).packets?.forwarded ?? 0;
      const begun = await forwarded();
      const datagram = udp({ ...toTalk({ sourcePort: 5011 }), payload: Buffer.from("n:0:x") });
      const frames = ["02:00:00:00:be:ef", macs.balancer].map((to) =>
        ethernet(to, macs.router, IPV4, datagram),
      );
      await inject(lab, "router", "front", frames);
      await until(async () => (await forwarded()) > begun, "the one for the balancer");
      await sleep(200);
      expect((await forwarded()) - begun).toBe(1);
    });

    test("a corrupted checksum leaves as corrupted as it came, a UDP checksum of 0 stays 0", async () => {
      const broken = tcp({ ...toTalk({ sourcePort: 5002 }), flags: FLAGS.syn });
      broken.writeUInt16BE(broken.readUInt16BE(20 + 16) ^ 0x0101, 20 + 16);
      const wrong = transportError(ethernet(macs.balancer, macs.router, IPV4, broken));
      expect(wrong).not.toBe(0);
      const unsummed = udp({ ...toTalk({ sourcePort: 5003 }), payload: Buffer.from("n:0:x") });
      unsummed.writeUInt16BE(0, 20 + 6);
      const arrived = await atServers(
        `udp or (tcp[tcpflags] & tcp-syn != 0 and not src host ${lab.server("server1").replace(/\d+$/, "1")})`,
        () => send(broken, unsummed),
      );
      const [segment] = arrived.filter((f) => dissect(f).protocol === 6);
      const [datagram] = arrived.filter((f) => dissect(f).protocol === 17);
      expect(segment && transportError(segment)).toBe(wrong);
      expect(datagram && dissect(datagram).transport.readUInt16BE(6)).toBe(0);
    });

    test("TCP behind the longest IP options goes on; every worker lives", async () => {
      const options = Buffer.concat([Buffer.from([7, 39, 4]), Buffer.alloc(36), Buffer.from([0])]);
      const syn = tcp({ ...toTalk({ sourcePort: 5004 }), flags: FLAGS.syn, options });
      const arrived = await atServers("tcp and ip[0] = 0x4f", () => send(syn));
      expect(arrived).toHaveLength(1);
      expect(arrived[0] && dissect(arrived[0]).transport.readUInt16BE(2)).toBe(TALK);
      await stillServes(lab, product);
    });

    test("what is neither TCP nor UDP, or another protocol's port, is left to the kernel as it is", async () => {
      const looksLikeTcp = tcp({ ...toTalk({ sourcePort: 5005 }), flags: FLAGS.syn }).subarray(20);
      const gre = ipv4({ source: GHOST, destination: lab.vip(), protocol: 47, payload: looksLikeTcp });
      const asUdp = udp({
        ...toTalk({ sourcePort: 5005, destinationPort: HTTP }),
        payload: Buffer.from("GET /"),
      });
      const ping = ipv4({
        source: lab.client(),
        destination: lab.vip(),
        protocol: 1,
        payload: Buffer.from("0800f7fd00010001", "hex"),
      });
      const tagged = Buffer.concat([Buffer.from("0005", "hex"), Buffer.from("0800", "hex"), asUdp]);
      const arrived = await atServers("not arp and not ip6 and (udp or icmp or proto 47)", async () => {
        const answers = await captured(lab, "client", "far", "icmp[0] = 0", async () => {
          await send(gre, asUdp, ping);
          await inject(lab, "router", "front", [ethernet(macs.balancer, macs.router, 0x8100, tagged)]);
        });
        expect(answers, "the kernel's own echo reply").toHaveLength(1);
      });
      expect(arrived).toEqual([]);
      await stillServes(lab, product);
    });

    test("an ICMP error with eight bytes of TCP is translated on its way to the server and to the client", async () => {
      await using talker = await Talker.start(lab, lab.vip());
      const { talks } = await talker.ask({ do: "open", count: 1 });
      const talk = talks[0];
      if (talk === undefined) throw new Error("no connection");
      const server = talk.name as (typeof SERVERS)[number];
      const answer = tcp({
        source: lab.vip(),
        sourcePort: TALK,
        destination: lab.client(),
        destinationPort: talk.localPort,
        flags: FLAGS.ack,
      });
      const toServer = await captured(lab, server, "front", "icmp[0] = 3", () =>
        send(
          unreachable({ source: "10.78.1.254", destination: lab.vip(), code: 4, mtu: 1300, about: answer }),
        ),
      );
      expect(toServer).toHaveLength(1);
      const outer = dissect(toServer[0] as Buffer);
      const at = method === "l2" ? lab.vip() : lab.server(server);
      // In the name of the address the server knows: the router's own would be forged where it leads to the server.
      const from = method === "l2" ? "10.78.1.254" : lab.vip();
      expect([outer.source, outer.destination]).toEqual([from, at]);
      const quoted = outer.transport.subarray(8);
      expect([...quoted.subarray(12, 16)].join(".")).toBe(at);
      expect([...quoted.subarray(16, 20)].join(".")).toBe(talk.from);
      expect([quoted.readUInt16BE(20), quoted.readUInt16BE(22)]).toEqual([TALK, talk.fromPort]);
      if (nat) {
        const asked = tcp({
          source: lab.vip(),
          sourcePort: talk.fromPort,
          destination: lab.server(server),
          destinationPort: TALK,
          flags: FLAGS.ack,
        });
        const error = unreachable({
          source: lab.server("server3"),
          destination: lab.vip(),
          code: 4,
          mtu: 1300,
          about: asked,
        });
        const toClient = await captured(lab, "client", "far", "icmp[0] = 3", () => send(error));
        expect(toClient).toHaveLength(1);
        const told = dissect(toClient[0] as Buffer);
        expect(told.source, "no address from behind the balancer").toBe(lab.vip());
        const about = told.transport.subarray(8);
        expect([...about.subarray(12, 20)]).toEqual([
          ...[lab.client(), lab.vip()].flatMap((a) => a.split(".").map(Number)),
        ]);
        expect([about.readUInt16BE(20), about.readUInt16BE(22)]).toEqual([talk.localPort, TALK]);
      }
      expect((await talker.ask({ do: "ping" })).ok, "the flow stands").toBe(1);
    });

    test("a segment of no known flow is reset (passthrough) or goes where its hash says (DSR)", async () => {
      const stray = tcp({
        ...toTalk({ sourcePort: 5006 }),
        flags: FLAGS.ack | FLAGS.psh,
        payload: Buffer.from("?"),
      });
      const why = async () => packets(await product.stats()).answered.no_flow ?? 0;
      const before = await why();
      let grown: Awaited<ReturnType<typeof growth>> | undefined;
      const arrived = await atServers("tcp port 9010 and tcp[tcpflags] & tcp-push != 0", async () => {
        grown = await growth(() => send(stray));
      });
      expect(arrived).toHaveLength(nat ? 0 : 1);
      expect(grown?.("tcp_reset")).toBe(nat ? 1 : 0);
      expect((await why()) - before, "the reason stands beside it").toBe(nat ? 1 : 0);
    });

    test("data out of window and blind resets, from either side, leave a flow standing; no other host answers for a server", async () => {
      await using talker = await Talker.start(lab, lab.vip());
      const { talks } = await talker.ask({ do: "open", count: 6 });
      const fromClient = talks.flatMap((talk) => [
        tcp({ ...toTalk({ source: lab.client(), sourcePort: talk.localPort }), flags: FLAGS.rst, seq: 77 }),
        tcp({ ...toTalk({ source: lab.client(), sourcePort: talk.localPort }), flags: FLAGS.syn, seq: 78 }),
        tcp({
          ...toTalk({ source: lab.client(), sourcePort: talk.localPort }),
          flags: FLAGS.ack,
          seq: 79,
          payload: Buffer.from("intruder"),
        }),
      ]);
      await send(...fromClient);
      if (nat) {
        const answer = (source: string, talk: (typeof talks)[number], flags: number) =>
          tcp({
            source,
            sourcePort: TALK,
            destination: lab.vip(),
            destinationPort: talk.fromPort,
            flags,
            seq: 5,
            ...(flags === FLAGS.rst ? {} : { payload: Buffer.from("intruder") }),
          });
        const other = (name: string) => lab.server(SERVERS.find((s) => s !== name) ?? "server1");
        const leaked = await captured(lab, "client", "far", "tcp", () =>
          send(
            ...talks.map((t) => answer(other(t.name), t, FLAGS.ack)),
            ...talks.map((t) => answer(other(t.name), t, FLAGS.rst)),
            ...talks.map((t) => answer("10.78.2.254", t, FLAGS.ack)),
          ),
        );
        expect(leaked.filter((f) => dissect(f).transport.includes("intruder"))).toEqual([]);
        await send(...talks.map((t) => answer(lab.server(t.name as "server1"), t, FLAGS.rst)));
      }
      expect((await talker.ask({ do: "ended" })).failed).toBe(0);
      expect((await talker.ask({ do: "ping", bytes: 20_000 })).ok).toBe(6);
      expect((await talker.ask({ do: "close" })).ok).toBe(6);
    });

    for (const family of ["v4", "v6"] as const) {
      test(`fragments over ${family} in any order make the datagram that was sent; without their first, or where they overlap, they reach nobody`, async () => {
        await using talker = await Talker.start(lab, lab.vip(family));
        const ether = family === "v4" ? IPV4 : IPV6;
        const put = (...ips: (Buffer | undefined)[]) =>
          inject(
            lab,
            "router",
            "front",
            ips.flatMap((ip) => (ip ? [ethernet(macs.balancer, macs.router, ether, ip)] : [])),
          );
        const [source, destination] = [lab.client(family), lab.vip(family)];
        const cut = (sourcePort: number, id: number, text: string) => {
          const payload = Buffer.from(text);
          return fragments({
            source,
            sourcePort,
            destination,
            destinationPort: TALK,
            payload,
            id,
            size: 1200,
          });
        };
        const next = random(family === "v4" ? 40 : 60);
        const shuffled = <T>(all: T[]) =>
          all
            .map((one) => [next(), one] as const)
            .sort(([a], [b]) => a - b)
            .map(([, one]) => one);
        const texts = Array.from({ length: 8 }, (_, i) => `${i} `.padEnd(3000 + i, "fragment"));
        const wanted = texts.length + 1;
        const asked = talker.ask({ do: "datagrams", texts: ["whole"], localPort: 5055, waitMs: 100, wanted });
        // Before its socket is there the answers to frames have nowhere to go.
        const there = () => lab.sh("client", "ss -Hun state established 'sport = :5055'");
        await until(async () => (await there()) !== "", "the talker's socket", 10_000);
        const grown = await growth(async () => {
          for (const [i, text] of texts.entries()) await put(...shuffled(cut(5055, 300 + i, text)));
          const [, middle, last] = cut(5055, 400, "?".repeat(3000));
          await put(middle, last);
          // The second part once more, eight bytes earlier: no server sees both.
          const [first, second] = cut(5055, 401, "!".repeat(3000));
          const early = Buffer.from(second ?? "");
          if (family === "v4") {
            early.writeUInt16BE(early.readUInt16BE(6) - 1, 6);
            early.writeUInt16BE(0, 10);
            early.writeUInt16BE(dissect(ethernet(macs.balancer, macs.router, IPV4, early)).headerSum, 10);
          } else early.writeUInt16BE(early.readUInt16BE(42) - 8, 42);
          await put(first, second, early);
        });
        expect((await asked).answers?.sort()).toEqual([...texts, "whole"].sort());
        expect(grown("fragment"), "without their first").toBe(2);
        expect(grown("fragment_overlap")).toBe(1);
        await stillServes(lab, product);
      });
    }

    test("every truncation, wrong lengths and 4000 random mutations: nothing crashes, every packet is accounted for", async () => {
      const whole = tcp({
        ...toTalk({ sourcePort: 5007 }),
        flags: FLAGS.syn,
        payload: Buffer.from("early data"),
      });
      const next = random(20);
      const damaged = [...whole.keys()].map((length) => whole.subarray(0, length));
      for (const at of [0, 2, 3, 20 + 12, 20 + 13]) {
        for (const value of [0, 1, 0x40, 0x4f, 0xf0, 0xff]) {
          const copy = Buffer.from(whole);
          copy[at] = value;
          damaged.push(copy);
        }
      }
      for (let i = 0; i < 4000; i++) {
        const copy = Buffer.from(whole.subarray(0, 20 + Math.floor(next() * (whole.length - 19))));
        for (let n = Math.ceil(next() * 4); n > 0; n--) copy[Math.floor(next() * copy.length)] = next() * 256;
        // So that the header checksum does not stop them all.
        if (next() < 0.7) {
          copy.writeUInt16BE(0, 10);
          copy.writeUInt16BE(dissect(ethernet(macs.balancer, macs.router, IPV4, copy)).headerSum, 10);
        }
        damaged.push(copy);
      }
      const before = await product.stats();
      await send(...damaged);
      const after = await quiet(product);
      const grown = total(after) - total(before);
      // The sockets' filter leaves to the kernel what is for no frontend; the rest has exactly one verdict.
      expect(grown).toBeGreaterThan(1000);
      expect(grown).toBeLessThan(damaged.length + 1500);
      for (const reason of [
        "truncated",
        "bad_ip_header",
        "bad_ip_checksum",
        "bad_tcp_header",
        "bad_tcp_flags",
      ]) {
        expect(counted(after, reason) - counted(before, reason), reason).toBeGreaterThan(0);
      }
      await stillServes(lab, product);
    });
  });
}

/** The statistics once no more frames are being dealt with. */
async function quiet(product: Product): Promise<Stats> {
  let seen = await product.stats();
  await until(
    async () => {
      await sleep(250);
      const before = total(seen);
      seen = await product.stats();
      return total(seen) === before;
    },
    "an end of the work",
    20_000,
  );
  return seen;
}

function total(stats: Stats): number {
  const { forwarded, replied, passed, dropped } = packets(stats);
  // A program on the interface sees, and counts, what is the host's own as well: ARP, neighbours, health checks.
  const { fragment = 0, opaque_extension = 0 } = passed;
  const sum = (reasons: Record<string, number>) => Object.values(reasons).reduce((a, b) => a + b, 0);
  return forwarded + sum(replied) + fragment + opaque_extension + sum(dropped);
}

/** Real clients are served, and no worker had to be started anew. */
async function stillServes(lab: PacketLab, product: Product): Promise<void> {
  const line = `for i in 1 2 3 4 5 6; do curl -sS --max-time 3 http://${lab.vip()}/name; echo; done`;
  expect((await lab.sh("client", line)).trim().split("\n")).toHaveLength(6);
  expect(product.process.stderr).not.toMatch(/panic/);
}
