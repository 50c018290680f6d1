/** Who may connect and how often: lists of networks and rates, with clients at several addresses. */
import { connect } from "node:net";
import { expect, test } from "vitest";
import { type ConfigInput, createBalancer } from "../../../ts/index.ts";
import { Client, echoServer, poolConfig } from "../../support/control.ts";
import { until } from "../../support/processes.ts";
import { type Address, freePort } from "../../support/sockets.ts";

type FrontendInput = ConfigInput["frontends"][string];

function config(addr: string, web: Partial<FrontendInput>, listen = "127.0.0.1:0"): ConfigInput {
  return {
    ...poolConfig({ s1: { addr } }),
    frontends: { web: { listen_addr: listen, backend: "pool", ...web } },
  };
}

/** Whether a client at this address is greeted by the server, rather than closed. */
async function isServed(to: Address, localAddress: string): Promise<boolean> {
  const socket = connect({ host: to.host, port: to.port, localAddress });
  socket.on("error", () => undefined);
  const greeted = new Promise<boolean>((resolve) => {
    socket.once("data", () => resolve(true));
    socket.once("close", () => resolve(false));
  });
  socket.resume();
  const served = await greeted;
  socket.destroy();
  return served;
}

test("the longest network that a client is in decides, others go by whether some are allowed; refusals are counted", async () => {
  await using server = await echoServer("s1");
  const lists = { allow: ["127.0.0.0/8", "127.1.2.3"], deny: ["127.1.0.0/16", "127.0.0.9"] };
  await using lb = await createBalancer(config(server.addr, lists));
  const to = lb.address("web");
  const asked = async (...clients: string[]) => Promise.all(clients.map((client) => isServed(to, client)));
  expect(await asked("127.0.0.2", "127.1.2.3", "127.2.0.1")).toEqual([true, true, true]);
  expect(await asked("127.0.0.9", "127.1.2.4", "127.1.255.255")).toEqual([false, false, false]);
  expect(lb.stats().frontends.web?.reasons).toEqual({ denied: 3 });
  expect(lb.stats().reasons).toEqual({ denied: 3 });
  expect(lb.stats().frontends.web?.total_connections).toBe(3);
});

test("explain names the network that denies a client, and the verdict that statistics count", async () => {
  await using server = await echoServer("s1");
  const lists = { allow: ["127.0.0.0/8"], deny: ["127.1.0.0/16"] };
  await using lb = await createBalancer(config(server.addr, lists, `127.0.0.1:${await freePort()}`));
  const { host, port } = lb.address("web");
  const asked = async (client: string) => lb.explain("tcp", `${client}:4000`, `${host}:${port}`);
  expect(await asked("127.0.0.1")).toMatchObject({ verdict: "connect" });
  const denied = await asked("127.1.0.1");
  expect(denied).toMatchObject({ frontend: "web", server: null, verdict: "refuse denied" });
  expect(denied.steps.at(-1)?.text).toBe("127.1.0.1 is denied, as 127.1.0.0/16 is");
  expect((await asked("192.0.2.1")).steps.at(-1)?.text).toBe(
    "192.0.2.1 is in none of the networks that are allowed",
  );
});

test("a reload that denies a client leaves its open connections and refuses new ones", async () => {
  await using server = await echoServer("s1");
  await using lb = await createBalancer(config(server.addr, {}));
  const open = await Client.open(lb.address("web"));
  const reload = await lb.update(config(server.addr, { deny: ["127.0.0.1"] }));
  expect(reload).toMatchObject({ result: "applied" });
  expect(reload.message).toContain('frontends.web.deny none→["127.0.0.1"]');
  expect(await isServed(lb.address("web"), "127.0.0.1")).toBe(false);
  expect(await open.echo("still here")).toBe("still here");
  await lb.update(config(server.addr, {}));
  expect(await isServed(lb.address("web"), "127.0.0.1")).toBe(true);
  open.close();
});

test("clients of IPv6 go by networks of IPv6 alone", async () => {
  await using server = await echoServer("s1");
  await using lb = await createBalancer(config(server.addr, { deny: ["0.0.0.0/0", "::2"] }, "[::1]:0"));
  expect(await isServed(lb.address("web"), "::1")).toBe(true);
  await lb.update(config(server.addr, { deny: ["::/127"] }, "[::1]:0"));
  expect(await isServed(lb.address("web"), "::1")).toBe(false);
});

test("new connections beyond the rate of a frontend are closed and counted, those of a client likewise", async () => {
  await using server = await echoServer("s1");
  await using lb = await createBalancer(
    config(server.addr, { max_connection_rate: 1, max_connection_rate_burst: 6 }),
  );
  const begun = performance.now();
  let served = 0;
  for (let n = 1; n <= 20; n++) if (await isServed(lb.address("web"), `127.0.1.${n}`)) served++;
  const most = 6 + Math.ceil((performance.now() - begun) / 1000);
  expect(served).toBeGreaterThanOrEqual(6);
  expect(served).toBeLessThanOrEqual(most);
  expect(lb.stats().frontends.web?.reasons).toEqual({ rate_frontend: 20 - served });
  // One token comes a second.
  await until(() => isServed(lb.address("web"), "127.0.1.1"), "a connection a second", 5000);

  await lb.update(config(server.addr, { max_connection_rate_per_client: 1 }));
  expect(await isServed(lb.address("web"), "127.0.2.1")).toBe(true);
  const again = performance.now();
  const second = await isServed(lb.address("web"), "127.0.2.1");
  if (performance.now() - again < 500) expect(second).toBe(false);
  for (let n = 2; n <= 20; n++) expect(await isServed(lb.address("web"), `127.0.2.${n}`)).toBe(true);
  expect(lb.stats().frontends.web?.reasons.rate_client).toBe(second ? undefined : 1);
});
