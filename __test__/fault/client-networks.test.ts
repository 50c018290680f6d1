/** What counts as one client: clients at several IPv6 addresses, of one network and of others. */
import { expect, test } from "vitest";
import { pool, startConvey } from "../support/convey.ts";
import { type Running, start, until } from "../support/processes.ts";
import { needs } from "../support/requirements.ts";
import { address, Row } from "../support/row.ts";

/** On the client's link, and behind it: a network of 56 bits that has two of 64. */
const SAME = ["fd77:1::2", "fd77:1::3:4"];
const OTHERS = ["fd77:9:0:1::5", "fd77:9:0:2::6"];
const V4 = ["10.77.1.2", "10.77.1.3"];

test("limits and rates of a client count the addresses of an IPv6 network as one, and IPv4 addresses one by one", async (context) => {
  needs(context, { root: true, tools: ["ip", "sysctl", "ethtool", "curl", "socat"] });
  await using lab = await Row.create();
  await lab.sh(
    "client",
    [
      "ip address add fd77:1::3:4/64 dev front nodad",
      ...OTHERS.map((ip) => `ip address add ${ip}/128 dev lo nodad`),
      "ip address add 10.77.1.3/24 dev front",
    ].join("\n"),
  );
  await lab.sh("balancer", `ip -6 route add fd77:9::/56 via ${address.client6}`);
  await using _server = start(
    lab.at("server", "socat", "TCP-LISTEN:9001,fork,reuseaddr", "SYSTEM:echo served; cat"),
  );
  const configuration = (limits: string[], rates: string[]): string =>
    [
      pool({ s1: `${address.server}:9001` }, { listen: `[${address.front6}]:8080`, frontend: rates }),
      "[frontends.v4]",
      `listen_addr = "${address.front}:8080"`,
      'backend = "pool"',
      ...rates,
      "[limits]",
      ...limits,
    ].join("\n");
  const connect = (from: string): Running => {
    const [kind, to, bind] = from.includes(":")
      ? ["TCP6", `[${address.front6}]`, `[${from}]`]
      : ["TCP4", address.front, from];
    return start(lab.at("client", "socat", "-", `${kind}:${to}:8080,bind=${bind}`), { stdin: true });
  };
  /** A connection that stands; undefined where it was closed. */
  const enter = async (from: string): Promise<Running | undefined> => {
    const client = connect(from);
    const served = await until(
      async () => (/served/.test(client.output()) ? "served" : !client.running && "closed"),
      `an answer to ${from}`,
      10_000,
    );
    return served === "served" ? client : undefined;
  };
  const served = async (...clients: string[]): Promise<boolean[]> => {
    const answers: boolean[] = [];
    const open: Running[] = [];
    for (const client of clients) {
      const entered = await enter(client);
      answers.push(entered !== undefined);
      if (entered) open.push(entered);
    }
    for (const client of open) await client[Symbol.asyncDispose]();
    return answers;
  };

  await using product = await startConvey(
    configuration(["max_connections_per_client = 1"], []),
    lab.at("balancer"),
  );
  const idle = () => until(async () => (await product.stats()).current_connections === 0, "no connection");
  expect(await served(...SAME, ...OTHERS, ...V4)).toEqual([true, false, true, true, true, true]);
  expect((await product.stats()).reasons).toMatchObject({ limit_client: 1 });
  await idle();

  const reconfigure = async (limits: string[], rates: string[]) => {
    const { config_version: before } = await product.stats();
    product.replace(configuration(limits, rates));
    await until(async () => (await product.stats()).config_version > before, "the new configuration");
  };
  await reconfigure(["max_connections_per_client = 1", "client_ipv6_prefix = 56"], []);
  expect(await served(...OTHERS, ...V4)).toEqual([true, false, true, true]);
  await idle();
  await reconfigure(["max_connections_per_client = 1", "client_ipv6_prefix = 128"], []);
  expect(await served(...SAME, ...OTHERS)).toEqual([true, true, true, true]);
  await idle();

  await reconfigure([], ["max_connection_rate_per_client = 1"]);
  const begun = performance.now();
  const [first, second, ...others] = await served(...SAME, ...OTHERS);
  expect([first, ...others]).toEqual([true, true, true]);
  if (performance.now() - begun < 900) expect(second).toBe(false);
  await idle();

  // A network of the client's address is denied, another goes on.
  await reconfigure([], ['deny = ["fd77:9:0:1::/64", "10.77.1.3"]']);
  expect(await served(...SAME, ...OTHERS, ...V4)).toEqual([true, true, false, true, true, false]);
}, 120_000);
