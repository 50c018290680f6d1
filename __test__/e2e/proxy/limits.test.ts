/** Limits are held and counted; nothing waits for ever. */
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { type ConfigInput, createBalancer } from "../../../ts/index.ts";
import { Client, echoServer, poolConfig } from "../../support/control.ts";
import { until } from "../../support/processes.ts";
import { dial, receive } from "../../support/sockets.ts";

const base = (addr: string): ConfigInput => poolConfig({ s1: { addr } });

test.each([
  ["in total", "limit_total", (c: ConfigInput): ConfigInput => ({ ...c, limits: { max_connections: 3 } })],
  [
    "of a client address",
    "limit_client",
    (c: ConfigInput): ConfigInput => ({ ...c, limits: { max_connections_per_client: 3 } }),
  ],
  [
    "of a frontend",
    "limit_frontend",
    (c: ConfigInput): ConfigInput => ({
      ...c,
      frontends: { web: { listen_addr: "127.0.0.1:0", backend: "pool", max_connections: 3 } },
    }),
  ],
] as const)(
  "the limit %s is held, counted as %s, and a place that is freed is given again",
  async (_, reason, limit) => {
    await using server = await echoServer("s1");
    await using lb = await createBalancer(limit(base(server.addr)));
    const held = await Promise.all([1, 2, 3].map(() => Client.open(lb.address("web"))));
    expect(held.map((client) => client.greeting)).toEqual(["s1", "s1", "s1"]);
    for (let n = 0; n < 5; n++) expect(await refusedByLimit(lb.address("web"))).toBe(true);
    expect(lb.stats().reasons).toEqual({ [reason]: 5 });
    expect(lb.stats().current_connections).toBe(3);
    held[0]?.close();
    await until(() => lb.stats().current_connections === 2, "a free place");
    expect((await Client.open(lb.address("web"))).greeting).toBe("s1");
  },
);

test("an idle connection ends at the idle timeout, a busy one lives on", async () => {
  await using server = await echoServer("s1");
  await using lb = await createBalancer(
    poolConfig({ s1: { addr: server.addr } }, { pool: { idle_timeout_ms: 500 } }),
  );
  const idle = await Client.open(lb.address("web"));
  const busy = await Client.open(lb.address("web"));
  const until_ = performance.now() + 1500;
  while (performance.now() < until_) {
    expect(await busy.echo("tick")).toBe("tick");
    await sleep(100);
  }
  expect(idle.ended).toBe(true);
  expect(busy.ended).toBe(false);
  expect(lb.stats().reasons).toEqual({ idle_timeout: 1 });
});

test("a busy connection ends at its maximum duration", async () => {
  await using server = await echoServer("s1");
  await using lb = await createBalancer(
    poolConfig({ s1: { addr: server.addr } }, { pool: { max_duration_ms: 700 } }),
  );
  const begun = performance.now();
  const busy = await Client.open(lb.address("web"));
  while (!busy.ended && performance.now() - begun < 5000) {
    busy.socket.write("tick\n");
    await sleep(50);
  }
  const lasted = performance.now() - begun;
  expect(lasted).toBeGreaterThan(650);
  expect(lasted).toBeLessThan(2500);
  expect(lb.stats().reasons).toEqual({ max_duration: 1 });
});

async function refusedByLimit(to: { host: string; port: number }): Promise<boolean> {
  const socket = await dial(to);
  const { bytes } = await receive(socket);
  socket.destroy();
  return bytes === 0;
}
