/** What a client notices of a server that is gone, in passthrough mode. */
import { describe, expect, test } from "vitest";
import { pool } from "../support/convey.ts";
import { finish, start, until } from "../support/processes.ts";
import { onSegment, SERVERS, type Segment, VIPS } from "./lab/segment.ts";

const [VIP] = VIPS;

/** One backend behind TCP and UDP port 80, checked by TCP. */
const CONFIGURATION = `${pool(Object.fromEntries(SERVERS.map((s, n) => [`s${n}`, `${s}:80`])), {
  top: ['mode = "passthrough"'],
  listen: `${VIP}:80`,
  backend: [
    "health_check_interval = 1",
    "health_check_fast_interval_ms = 200",
    "health_check_timeout_ms = 500",
  ],
})}[frontends.datagrams]
listen_addr = "${VIP}:80"
protocol = "udp"
backend = "pool"
`;

describe("a server that is gone", () => {
  let segment: Segment;
  onSegment(["socat"], (standing) => {
    segment = standing;
  });

  /** The server that answers a datagram from one port of the client, or "". */
  async function ask(): Promise<string> {
    const line = `echo q | socat -t1 - UDP:${VIP}:80,sourceport=5555,reuseaddr`;
    return (await finish(segment.at("client", "sh", "-c", line))).stdout.trim();
  }

  test("datagrams of a client whose server went down are answered by another", async () => {
    const echo = (server: (typeof SERVERS)[number]) =>
      start(segment.at(server, "socat", "UDP-RECVFROM:80,fork", `SYSTEM:echo ${server}`));
    const [a, b, c, d] = SERVERS;
    await using _a = echo(a);
    await using _b = echo(b);
    await using _c = echo(c);
    await using _d = echo(d);
    await using _product = await segment.runWith(CONFIGURATION);
    const first = await until(async () => (await ask()) || undefined, "a first answer", 10_000);
    expect(await ask()).toBe(first);
    await segment.sh(SERVERS.find((s) => s === first) ?? "client", "ip link set eth0 down");
    // Asked again and again, so that the flow never runs out.
    const other = await until(
      async () => (await ask()) || undefined,
      "an answer from another server",
      20_000,
    );
    expect(other).not.toBe(first);
    expect(await ask()).toBe(other);
  });
});
