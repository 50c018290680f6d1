/** Lists of networks and rates, as they are written. */
import { expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import { loadConfigText } from "../../../ts/config/load.ts";
import { lower } from "../../../ts/config/lower.ts";
import { parseNetwork } from "../../../ts/config/networks.ts";
import { describeChanges, diffConfig } from "../../../ts/control/diff.ts";
import { LEAST, LEAST_PACKETS, linesOf } from "./support.ts";

/** The least configuration with these keys of the frontend, from line 4 on. */
const web = (keys: string, least = LEAST): string => least.replace("[backends", `${keys}[backends`);

test.each([
  ["10.0.0.0/8", "10.0.0.0/8"],
  ["0.0.0.0/0", "0.0.0.0/0"],
  ["192.0.2.7", "192.0.2.7"],
  ["192.0.2.7/32", "192.0.2.7"],
  ["2001:DB8:0:0::/32", "2001:db8::/32"],
  ["::/0", "::/0"],
  ["2001:db8::1/128", "2001:db8::1"],
  ["::ffff:10.0.0.0/104", "10.0.0.0/8"],
  ["::ffff:192.0.2.7", "192.0.2.7"],
])("the network %s is read as %s", (text, value) => {
  expect(parseNetwork(text)).toEqual({ ok: true, value });
});

test.each([
  ["", "is not a network"],
  ["web", "is not a network"],
  ["10.0.0/8", "is not a network"],
  ["10.0.0.0/8/8", "is not a network"],
  ["fe80::1%eth0", "is not a network"],
  ["10.0.0.0/", "has a prefix length that is not a number from 0 to 32"],
  ["10.0.0.0/33", "has a prefix length that is not a number from 0 to 32"],
  ["10.0.0.0/08", "has a prefix length that is not a number from 0 to 32"],
  ["::/129", "has a prefix length that is not a number from 0 to 128"],
  ["10.1.2.3/8", "has bits set behind its prefix: the network is 10.0.0.0/8"],
  ["2001:db8::1/32", "has bits set behind its prefix: the network is 2001:db8::/32"],
  ["::ffff:10.0.0.0/90", "is wider than the IPv4 addresses within IPv6"],
])("%j is no network: it %s", (text, message) => {
  expect(parseNetwork(text)).toEqual({ ok: false, message });
});

test("a network that is none is told with its own line", async () => {
  expect(await linesOf(web('allow = [\n  "10.0.0.0/8",\n  "10.1.2.3/8",\n]\n'))).toEqual([
    't.toml:6:3: error: frontends.web.allow.1: has bits set behind its prefix: the network is 10.0.0.0/8 (found "10.1.2.3/8", expected a network, such as "192.0.2.0/24", "2001:db8::/32" or "192.0.2.7")',
  ]);
});

test("a network in both lists is an error that names both places, however it is written", async () => {
  expect(
    await linesOf(web('allow = ["192.0.2.0/24", "10.0.0.0/8"]\ndeny = ["::ffff:10.0.0.0/104"]\n')),
  ).toEqual([
    't.toml:5:9: error: frontends.web.deny.0: is allowed as well, by frontends.web.allow.1 (found "::ffff:10.0.0.0/104", expected a network in one of the two lists)',
  ]);
});

test("an empty list of who is allowed is refused, because it can mean two things", async () => {
  const [line] = await linesOf(web("allow = []\n"));
  expect(line).toContain(
    "t.toml:4:9: error: frontends.web.allow: is empty, which would allow nobody or everybody",
  );
  expect(await linesOf(web("deny = []\n"))).toEqual([]);
});

test("a burst without its rate is told to have no effect", async () => {
  expect(await linesOf(web("max_connection_rate_burst = 5\n"))).toEqual([
    "t.toml:4:1: warning: frontends.web.max_connection_rate_burst: has no effect without the rate it belongs to",
  ]);
});

test("lists are taken in every mode, rates and limits of a client in proxy mode alone, with the reason", async () => {
  for (const mode of ["passthrough", "dsr"]) {
    const least = `${LEAST_PACKETS.replace(":8081", ":3000")}[backends.pool]\ncheck = "address"\n`;
    const lists = web('allow = ["10.0.0.0/8"]\ndeny = ["10.1.0.0/16"]\n', `mode = "${mode}"\n${least}`);
    expect(await linesOf(lists)).toEqual([]);
    const rates = web(
      "max_connection_rate = 5\nmax_connection_rate_per_client = 5\n",
      `mode = "${mode}"\n${least}[limits]\nmax_connections_per_client = 5\nclient_ipv6_prefix = 56\n`,
    );
    const lines = await linesOf(rates);
    const forged = `is not available in ${mode} mode, which goes by packets whose source address anybody can forge`;
    expect(lines.filter((line) => line.includes(forged))).toHaveLength(2);
    expect(lines).toContainEqual(
      expect.stringContaining(
        `limits.max_connections_per_client: is not available in ${mode} mode, which cannot tell a client from one that forges its address`,
      ),
    );
  }
});

test("a rate without a burst lets as many come at once as in a second", () => {
  const input = {
    frontends: {
      web: {
        listen_addr: "127.0.0.1:3000",
        backend: "pool",
        max_connection_rate: 7,
        max_connection_rate_per_client: 3,
        max_connection_rate_per_client_burst: 9,
      },
    },
    backends: { pool: {} },
    limits: { client_ipv6_prefix: 56 },
  };
  const result = checkConfig(input);
  if (!result.ok) throw new Error("refused");
  const native = lower(result.config);
  expect(native.frontends[0]).toMatchObject({
    allow: [],
    deny: [],
    rate: 7,
    rateBurst: 7,
    clientRate: 3,
    clientRateBurst: 9,
  });
  expect(native.clientIpv6Prefix).toBe(56);
});

test("a list of 10,000 networks loads at once, and a change of it is told by what came and went", async () => {
  const networks = Array.from({ length: 10_000 }, (_, n) => `10.${n >> 8}.${n & 255}.0/24`);
  const load = async (list: readonly string[]) => {
    const result = await loadConfigText(web(`deny = ${JSON.stringify(list)}\n`));
    if (!result.ok) throw new Error("refused");
    return result.config;
  };
  const before = await load(networks);
  const after = await load([...networks.slice(1), "192.0.2.0/24"]);
  expect(describeChanges(diffConfig(before, after))).toBe(
    "frontends.web.deny +1 192.0.2.0/24, −1 10.0.0.0/24",
  );
});
