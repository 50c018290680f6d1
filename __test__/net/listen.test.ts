/** A frontend on several addresses and on a range of ports in passthrough mode. */
import { describe, expect, test } from "vitest";
import { finish, start, succeed } from "../support/processes.ts";
import { engine, inKernel } from "./engines.ts";
import { CLIENT, onSegment, SERVERS, type Segment, VIPS } from "./lab/segment.ts";

const [VIP, OTHER] = VIPS;
const [SERVER] = SERVERS;

const configuration = (listen: readonly string[], frontend = ""): string => `mode = "passthrough"
engine = "${engine()}"
[stats]
port = 0
[frontends.web]
listen = ${JSON.stringify(listen)}
backend = "pool"
${frontend}
[backends.pool.servers.s]
addr = "${SERVER}:80"
[passthrough]
workers = 1
`;

describe("a frontend on several addresses", () => {
  let segment: Segment;
  onSegment(["socat"], (standing) => {
    segment = standing;
  });

  const curl = (at: string) =>
    finish(segment.at("client", "curl", "-sS", "--max-time", "3", `http://${at}/`));
  const ask = async (at: string): Promise<string> =>
    await succeed(segment.at("client", "curl", "-sS", "--max-time", "5", `http://${at}/`));

  test("serves each address and port, counts them as one frontend, and a reload moves single ones", async () => {
    await using product = await segment.runWith(configuration([`${VIP}:80`, `${OTHER}:8000-8003`]));
    const places = [`${VIP}:80`, ...[0, 1, 2, 3].map((n) => `${OTHER}:800${n}`)];
    for (const at of places) expect(await ask(at)).toBe(`${SERVER} ${at.split(":")[0]}`);
    expect((await curl(`${OTHER}:8004`)).code).not.toBe(0);
    expect((await curl(`${OTHER}:80`)).code).not.toBe(0);
    const { frontends } = await product.stats();
    expect(Object.keys(frontends)).toEqual(["web"]);
    expect(frontends.web).toMatchObject({
      address: `${VIP}:80, ${OTHER}:8000-8003`,
      total_connections: places.length,
    });
    const explained = await product.explain(`${CLIENT}:5555`, `${OTHER}:8002`);
    expect(explained).toMatchObject({ frontend: "web", server: { name: "s" } });

    product.replace(configuration([`${VIP}:80`, `${OTHER}:8002-8005`]));
    await product.process.waitFor(/"msg":"reload: /);
    for (const at of [`${VIP}:80`, `${OTHER}:8002`, `${OTHER}:8005`]) {
      expect(await ask(at)).toBe(`${SERVER} ${at.split(":")[0]}`);
    }
    expect((await curl(`${OTHER}:8000`)).code).not.toBe(0);
    expect((await product.stats()).frontends.web).toMatchObject({
      address: `${VIP}:80, ${OTHER}:8002-8005`,
      total_connections: places.length + 3,
    });
  });

  test("a limit counts the frontend over all its addresses, or is refused where the kernel would count each", async () => {
    const toml = configuration([`${VIP}:80`, `${OTHER}:80`], "max_connections = 2");
    if (inKernel()) {
      await expect(segment.runWith(toml)).rejects.toThrow(
        /frontends\.web\.max_connections: cannot be kept over several addresses or ports/,
      );
      return;
    }
    await using product = await segment.runWith(toml);
    const hold = async (vip: string) => {
      const one = start(segment.at("client", "socat", "-t5", "-", `TCP:${vip}:80`), { stdin: true });
      one.child.stdin?.write("GET / HTTP/1.1\r\nHost: vip\r\n\r\n");
      await one.waitFor(/10\.0\.0\.11 /);
      return one;
    };
    await using _first = await hold(VIP);
    await using _second = await hold(OTHER);
    for (const vip of VIPS) expect((await curl(`${vip}:80`)).code).not.toBe(0);
    expect((await product.stats()).frontends.web?.current_connections).toBe(2);
  });

  test("takes a range of a thousand ports", async () => {
    await using _product = await segment.runWith(configuration([`${VIP}:20000-21023`]));
    for (const port of [20_000, 20_511, 21_023]) expect(await ask(`${VIP}:${port}`)).toBe(`${SERVER} ${VIP}`);
    expect((await curl(`${VIP}:21024`)).code).not.toBe(0);
  });
});
