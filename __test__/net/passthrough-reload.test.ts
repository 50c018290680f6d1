/** What a reload leaves alone in passthrough mode. */
import { describe, expect, test } from "vitest";
import { pool } from "../support/convey.ts";
import { finish, start, until } from "../support/processes.ts";
import { onSegment, SERVERS, type Segment, VIPS } from "./lab/segment.ts";

const [VIP] = VIPS;
const REQUEST = "GET / HTTP/1.1\r\nHost: vip\r\n\r\n";

describe("a reload in passthrough mode", () => {
  let segment: Segment;
  onSegment(["socat"], (standing) => {
    segment = standing;
  });

  test("a connection to a server that left the configuration goes on, new ones go elsewhere", async () => {
    const only = (server: string) =>
      pool({ s: `${server}:80` }, { top: ['mode = "passthrough"'], listen: `${VIP}:80` });
    await using product = await segment.runWith(only(SERVERS[0]));
    await using old = start(segment.at("client", "socat", "-t5", "-", `TCP:${VIP}:80`), { stdin: true });
    old.child.stdin?.write(REQUEST);
    await old.waitFor(/10\.0\.0\.11 /);
    // A second reload has nothing left of the first configuration to go by.
    for (const server of [SERVERS[1], SERVERS[2]]) {
      product.replace(only(server));
      await product.process.waitFor(/"msg":"reload: /);
      product.process.stderr = "";
      expect(await segment.ask(VIP)).toBe(`${server} ${VIP}`);
    }
    old.stdout = "";
    old.child.stdin?.write(REQUEST);
    await old.waitFor(/10\.0\.0\.11 /);
    old.child.stdin?.end();
    expect((await old.exited).code).toBe(0);
  });

  test("a frontend that leaves keeps its connections, refuses others, and gives its address back with the last", async () => {
    const top = (...timeouts: string[]) => ({
      top: ['mode = "passthrough"', "[passthrough.timeouts]", ...timeouts],
    });
    await using product = await segment.runWith(
      pool({ s: `${SERVERS[0]}:80` }, { ...top(), listen: `${VIP}:80` }),
    );
    await using old = start(segment.at("client", "socat", "-t5", "-", `TCP:${VIP}:80`), { stdin: true });
    old.child.stdin?.write(REQUEST);
    await old.waitFor(/10\.0\.0\.11 /);
    // The old flow, too, lives by the new lifetimes from now on.
    product.replace(pool({ s: `${SERVERS[0]}:8080` }, { ...top("closed_ms = 1000"), listen: `${VIP}:8080` }));
    await product.process.waitFor(/"msg":"reload: /);
    // The host's own, which is reached only where Convey leaves the address alone.
    await using _own = start(
      segment.at("balancer", "socat", `TCP-LISTEN:80,bind=${VIP},reuseaddr,fork`, "SYSTEM:echo own"),
    );
    const connect = () =>
      finish(segment.at("client", "socat", "-t2", "-", `TCP:${VIP}:80,connect-timeout=2`));
    expect((await connect()).stderr).toContain("refused");
    old.stdout = "";
    old.child.stdin?.write(REQUEST);
    await old.waitFor(/10\.0\.0\.11 /);
    expect((await connect()).stderr).toContain("refused");
    old.child.stdin?.end();
    expect((await old.exited).code).toBe(0);
    await until(async () => (await connect()).stdout === "own\n", "the host's own service", 30_000);
  }, 60_000);
});
