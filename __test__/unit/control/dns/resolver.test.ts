/** Questions to real sockets: which server is asked, and what is made of its answer. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import type { Config } from "../../../../ts/config/schema.ts";
import { Resolver } from "../../../../ts/control/dns/resolver.ts";
import { parseHosts, parseResolvConf, System } from "../../../../ts/control/dns/system.ts";
import { addresses, dnsServer } from "../../../support/dns.ts";

const folder = mkdtempSync(join(tmpdir(), "convey-dns-"));
afterAll(() => rmSync(folder, { recursive: true }));

const settings = (servers: string[], more: Partial<Config["resolver"]> = {}): Config["resolver"] => ({
  servers,
  timeout_ms: 300,
  retries: 2,
  min_ttl_ms: 1000,
  max_ttl_ms: 60_000,
  hold_ms: 30_000,
  ...more,
});

test("a server that is silent or fails is passed over, and the one that answered is asked first from then on", async () => {
  await using silent = await dnsServer();
  await using failing = await dnsServer();
  await using good = await dnsServer();
  silent.mood.silent = true;
  failing.mood.rcode = 2;
  good.zone.set("A app.test", addresses("app.test", ["10.0.0.1"], 7));
  const resolver = new Resolver(settings([silent.address, failing.address, good.address]));
  const expected = { kind: "found", addresses: ["10.0.0.1"], ttlMs: 7000 };
  expect(await resolver.ask("app.test", "A")).toMatchObject(expected);
  expect(await resolver.ask("app.test", "A")).toMatchObject(expected);
  expect([silent, failing, good].map(({ asked }) => asked.length)).toEqual([1, 1, 2]);
});

test("so many tries are made, and the last cause is told", async () => {
  await using silent = await dnsServer();
  silent.mood.silent = true;
  const resolver = new Resolver(settings([silent.address], { retries: 1, timeout_ms: 50 }));
  expect(await resolver.ask("app.test", "A")).toEqual({ kind: "failed", cause: "no answer within 50 ms" });
  expect(silent.asked.length).toBe(2);
  const nobody = new Resolver(settings(["127.0.0.1:1"]));
  expect(await nobody.ask("app.test", "A")).toMatchObject({
    kind: "failed",
    cause: "the DNS server cannot be asked (ECONNREFUSED)",
  });
});

test("a server that cannot be sent to is passed over, and questions under way end with the resolver", async () => {
  await using silent = await dnsServer();
  silent.mood.silent = true;
  // A datagram to the broadcast address is refused by the kernel.
  const unable = new Resolver(settings(["255.255.255.255:53"], { retries: 0 }));
  expect(await unable.ask("app.test", "A")).toMatchObject({
    kind: "failed",
    cause: "the DNS server cannot be asked (EACCES)",
  });
  const resolver = new Resolver(settings([silent.address], { timeout_ms: 60_000 }));
  const asked = resolver.ask("app.test", "A");
  await new Promise((resolve) => setTimeout(resolve, 50));
  resolver.close();
  expect(await asked).toEqual({ kind: "failed", cause: "given up" });
});

test("that a name does not exist is final: nobody else is asked", async () => {
  await using first = await dnsServer();
  await using second = await dnsServer();
  const resolver = new Resolver(settings([first.address, second.address]));
  expect(await resolver.ask("gone.test", "A")).toMatchObject({ kind: "none" });
  expect(second.asked).toEqual([]);
});

test("an answer that does not fit a datagram is asked for by TCP", async () => {
  await using dns = await dnsServer();
  dns.mood.truncated = true;
  const many = Array.from({ length: 200 }, (_, i) => `10.0.0.${i}`);
  dns.zone.set("A app.test", addresses("app.test", many));
  const answer = await new Resolver(settings([dns.address])).ask("app.test", "A");
  expect(answer.kind === "found" && answer.addresses.length).toBe(200);
  expect(dns.asked).toEqual(["udp A app.test", "tcp A app.test"]);
});

test("an alias whose end is not told is followed, and a circle of them ends", async () => {
  await using dns = await dnsServer();
  dns.zone.set("CNAME app.test", [{ type: "CNAME", name: "app.test", ttl: 3, data: "b.test" }]);
  dns.zone.set("A b.test", addresses("b.test", ["10.0.0.1"], 60));
  const resolver = new Resolver(settings([dns.address]));
  expect(await resolver.ask("app.test", "A")).toMatchObject({ addresses: ["10.0.0.1"], ttlMs: 3000 });
  dns.zone.set("CNAME b.test", [{ type: "CNAME", name: "b.test", ttl: 3, data: "app.test" }]);
  dns.zone.delete("A b.test");
  expect(await resolver.ask("app.test", "A")).toMatchObject({ kind: "failed" });
});

test("a server that floods with answers to other questions is given up", async () => {
  await using dns = await dnsServer();
  dns.mood.raw = (query) => {
    const bytes = Buffer.from(query);
    bytes.writeUInt16BE(bytes.readUInt16BE(0) ^ 1, 0);
    return bytes;
  };
  const resolver = new Resolver(settings([dns.address], { retries: 0, timeout_ms: 100 }));
  expect(await resolver.ask("app.test", "A")).toMatchObject({ kind: "failed" });
});

test("/etc/hosts is asked first, localhost is this machine, and resolv.conf names the servers", async () => {
  const hosts = join(folder, "hosts");
  const resolvConf = join(folder, "resolv.conf");
  writeFileSync(hosts, "10.0.0.7 App.Test other # a comment\n::1 app.test\nnonsense\n");
  await using dns = await dnsServer();
  writeFileSync(resolvConf, "search example.com\nnameserver 127.0.0.1\n");
  const resolver = new Resolver(settings([dns.address]), new System({ hosts, resolvConf }));
  expect(await resolver.ask("app.test", "A")).toMatchObject({ addresses: ["10.0.0.7"], ttlMs: 60_000 });
  expect(await resolver.ask("app.test", "AAAA")).toMatchObject({ addresses: ["::1"] });
  expect(await resolver.ask("localhost", "A")).toMatchObject({ addresses: ["127.0.0.1"] });
  expect(await resolver.ask("other", "AAAA")).toMatchObject({ kind: "none" });
  expect(dns.asked).toEqual([]);
  expect(parseResolvConf("# none\nnameserver bad\n")).toEqual([{ host: "127.0.0.1", port: 53 }]);
  expect(parseResolvConf("nameserver 10.0.0.53\nnameserver 2001:db8::53\n")).toEqual([
    { host: "10.0.0.53", port: 53 },
    { host: "2001:db8::53", port: 53 },
  ]);
  expect(parseHosts("10.0.0.1 a a\n10.0.0.1 a\n")).toEqual(new Map([["a", ["10.0.0.1"]]]));
});
