/** Servers by name in the packet modes: their addresses are followed while flows go on. */
import { describe, expect, test } from "vitest";
import { pool } from "../support/convey.ts";
import { dnsmasq } from "../support/dns.ts";
import { start, until } from "../support/processes.ts";
import { onSegment, SERVERS, type Segment, VIPS } from "./lab/segment.ts";

const [VIP] = VIPS;
const REQUEST = "GET / HTTP/1.1\r\nHost: vip\r\n\r\n";

describe("a name in passthrough mode", () => {
  let segment: Segment;
  onSegment(["socat", "dnsmasq"], (standing) => {
    segment = standing;
  });

  test("new flows follow the name, and one of before goes on at the address that left", async () => {
    const [first, second] = SERVERS;
    await using dns = await dnsmasq(`${first} app.test\n2001:db8::1 app.test\n`, [], segment.at("balancer"));
    const resolver = ["[resolver]", `servers = ["${dns.address}"]`, "min_ttl_ms = 100", "max_ttl_ms = 200"];
    await using product = await segment.runWith(
      pool({ s: "app.test:80" }, { top: ['mode = "passthrough"', ...resolver], listen: `${VIP}:80` }),
    );
    expect(await segment.ask(VIP)).toBe(`${first} ${VIP}`);
    await using old = start(segment.at("client", "socat", "-t5", "-", `TCP:${VIP}:80`), { stdin: true });
    old.child.stdin?.write(REQUEST);
    await old.waitFor(/10\.0\.0\.11 /);
    dns.write(`${second} app.test\n`);
    await until(async () => (await segment.ask(VIP)) === `${second} ${VIP}`, "the other server", 20_000);
    expect(Object.keys((await product.stats()).backends.pool?.server_details ?? {})).toEqual([
      `s@${second}:80`,
    ]);
    old.stdout = "";
    old.child.stdin?.write(REQUEST);
    await old.waitFor(/10\.0\.0\.11 /);
    old.child.stdin?.end();
    expect((await old.exited).code).toBe(0);
  });
});
