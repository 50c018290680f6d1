/** What is held of a name while answers come and fail; time is told. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { Lookup } from "../../../../ts/control/dns/lookup.ts";
import { MOST_RECORDS, type RecordType } from "../../../../ts/control/dns/message.ts";
import type { Known } from "../../../../ts/control/dns/resolver.ts";

const TIMING = { minTtlMs: 1000, maxTtlMs: 60_000, holdMs: 30_000 };
const NONE: Known = { kind: "none", cause: "no such name (NXDOMAIN)", ttlMs: 5000 };
const FAILED: Known = { kind: "failed", cause: "no answer within 1000 ms" };
const found = (addresses: string[], ttlMs = 10_000): Known => ({
  kind: "found",
  addresses,
  targets: [],
  ttlMs,
  cut: false,
});

/** Looks at a name whose answers are told. */
function watched(
  address: ConstructorParameters<typeof Lookup>[0] = { kind: "name", host: "app.test", port: 80 },
) {
  const lookup = new Lookup(address);
  const says = new Map<string, Known>();
  const ask = async (name: string, type: RecordType) => says.get(`${type} ${name}`) ?? NONE;
  return {
    lookup,
    say: (key: string, known: Known) => says.set(key, known),
    at: async (now: number) => await lookup.refresh(ask, TIMING, () => now),
    hosts: () => lookup.addresses().map(({ host }) => host),
  };
}

test("both families are addresses, in an order of their own, IPv4 first", async () => {
  const name = watched();
  name.say("A app.test", found(["10.0.0.9", "10.0.0.1"]));
  name.say("AAAA app.test", found(["2001:db8::1"], 20_000));
  expect(await name.at(0)).toBe(10_000);
  expect(name.hosts()).toEqual(["10.0.0.1", "10.0.0.9", "2001:db8::1"]);
  expect(name.lookup.look()).toEqual({ state: "resolved", cause: "", cut: false });
});

test("a TTL counts within its bounds, and a missing family asks no more often", async () => {
  const name = watched();
  name.say("A app.test", found(["10.0.0.1"], 0));
  expect(await name.at(0)).toBe(1000);
  name.say("A app.test", found(["10.0.0.1"], 3_600_000));
  expect(await name.at(1)).toBe(60_000);
});

test("an address that an answer no longer has is gone at once", async () => {
  const name = watched();
  name.say("A app.test", found(["10.0.0.1", "10.0.0.2"]));
  await name.at(0);
  name.say("A app.test", found(["10.0.0.2"]));
  await name.at(1);
  expect(name.hosts()).toEqual(["10.0.0.2"]);
});

test("nobody answering keeps the last good for ever, and is asked again later and later", async () => {
  const name = watched();
  name.say("A app.test", found(["10.0.0.1"]));
  await name.at(0);
  name.say("A app.test", FAILED);
  name.say("AAAA app.test", FAILED);
  const waits = [];
  for (let i = 1; i <= 6; i++) waits.push(await name.at(i * 1_000_000));
  expect(waits).toEqual([1000, 2000, 4000, 8000, 10_000, 10_000]);
  expect(name.hosts()).toEqual(["10.0.0.1"]);
  expect(name.lookup.look()).toMatchObject({ state: "failed", cause: "no answer within 1000 ms" });
});

test("that a name is gone counts once it was so for the hold time, and not before", async () => {
  const name = watched();
  name.say("A app.test", found(["10.0.0.1"]));
  await name.at(0);
  name.say("A app.test", NONE);
  expect(await name.at(1000)).toBe(5000);
  // A failure in between neither counts nor begins anew.
  name.say("A app.test", FAILED);
  await name.at(20_000);
  name.say("A app.test", NONE);
  expect(await name.at(30_000)).toBe(1000);
  expect(name.hosts()).toEqual(["10.0.0.1"]);
  expect(name.lookup.look()).toMatchObject({ state: "none" });
  await name.at(31_000);
  expect(name.hosts()).toEqual([]);
});

test("SRV records give each target's addresses their port, weight and priority, best first", async () => {
  const name = watched({ kind: "srv", host: "_http._tcp.test" });
  const targets = [
    { priority: 2, weight: 1, port: 8081, host: "b.test" },
    { priority: 1, weight: 7, port: 8080, host: "a.test" },
  ];
  name.say("SRV _http._tcp.test", { kind: "found", addresses: [], targets, ttlMs: 10_000, cut: false });
  name.say("A a.test", found(["10.0.0.1"], 3000));
  name.say("A b.test", found(["10.0.0.2"]));
  expect(await name.at(0)).toBe(3000);
  expect(name.lookup.addresses()).toEqual([
    { host: "10.0.0.1", port: 8080, priority: 1, weight: 7 },
    { host: "10.0.0.2", port: 8081, priority: 2, weight: 1 },
  ]);
  // Targets keep theirs while the SRV records cannot be had.
  name.say("SRV _http._tcp.test", FAILED);
  await name.at(5000);
  expect(name.lookup.addresses()).toHaveLength(2);
});

test("addresses that no server can have are passed over", async () => {
  const name = watched();
  name.say("A app.test", found(["0.0.0.0", "224.0.0.1", "255.255.255.255", "10.0.0.1"]));
  name.say("AAAA app.test", found(["::", "ff02::1"]));
  await name.at(0);
  expect(name.hosts()).toEqual(["10.0.0.1"]);
});

test("whatever a name's servers say, it has a bounded number of addresses and a time to ask again", async () => {
  const host = fc.nat(400).map((n) => `10.0.${n >> 8}.${n & 255}`);
  const target = fc.record({
    priority: fc.nat(3),
    weight: fc.nat(65535),
    port: fc.integer({ min: 1, max: 65535 }),
    host: fc.nat(40).map((n) => `h${n}.test`),
  });
  const answer = fc.oneof(
    fc.constant(NONE),
    fc.constant(FAILED),
    fc.tuple(fc.array(host, { maxLength: 256 }), fc.nat()).map(([list, ttl]) => found(list, ttl)),
  );
  const services = fc.oneof(
    fc.constant(NONE),
    fc.constant(FAILED),
    fc
      .array(target, { maxLength: 60 })
      .map((targets): Known => ({ kind: "found", addresses: [], targets, ttlMs: 1, cut: false })),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(services, answer), { maxLength: 6 }), async (rounds) => {
      const lookup = new Lookup({ kind: "srv", host: "_http._tcp.test" });
      let now = 0;
      for (const [service, hosts] of rounds) {
        const ask = async (_: string, type: RecordType) => (type === "SRV" ? service : hosts);
        const wait = await lookup.refresh(ask, TIMING, () => now);
        expect(wait).toBeGreaterThan(0);
        expect(wait).toBeLessThanOrEqual(TIMING.maxTtlMs);
        expect(lookup.addresses().length).toBeLessThanOrEqual(MOST_RECORDS);
        now += wait;
      }
    }),
    { numRuns: 60 },
  );
});
