/** What a change of configuration and an orderly end cost the clients: nothing. */
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, expect, test } from "vitest";
import { createBalancer } from "../../../ts/index.ts";
import { poolConfig } from "../../support/control.ts";
import { pool, startConvey } from "../../support/convey.ts";
import { failed, load, loadgenPath, startServer } from "../../support/loadgen.ts";
import { finish, until } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import { dial, echo, listening } from "../../support/sockets.ts";

// Built here, so that a first build is not charged to a test.
beforeAll(() => loadgenPath(), 300_000);

test("100 reloads under 1,000 connections a second: none fails, none is reset", async () => {
  const servers = [await startServer(), await startServer(), await startServer()];
  await using _a = servers[0]?.process;
  await using _b = servers[1]?.process;
  await using _c = servers[2]?.process;
  const addrs = servers.map((server) => server.address);
  const config = (n: number) =>
    poolConfig(
      Object.fromEntries(
        addrs
          .filter((_, i) => i !== n % 3)
          .map((addr, i) => [`s${i}-${addr}`, { addr, weight: 1 + (n % 5) }]),
      ),
      {
        frontends: {
          web: { listen_addr: "127.0.0.1:0", backend: "pool" },
          ...(n % 2 ? { extra: { listen_addr: "127.0.0.1:0", backend: "pool" } } : {}),
        },
        pool: { idle_timeout_ms: 60_000 + n },
      },
    );
  await using lb = await createBalancer(config(0));
  const { host, port } = lb.address("web");
  const run = load([
    "requests",
    "--fresh",
    "--connect",
    `${host}:${port}`,
    "--rate",
    "1000",
    "--duration",
    "6",
    "--warmup",
    "0.2",
  ]);
  await until(() => (lb.stats().total_connections ?? 0) > 100, "load");
  const version = lb.stats().config_version;
  for (let n = 1; n <= 100; n++) {
    expect(await lb.update(config(n))).toMatchObject({ result: "applied" });
    await sleep(40);
  }
  expect(lb.stats().config_version).toBe(version + 100);
  const result = await run;
  expect(result.failures).toEqual({ connect: 0, reset: 0, closed_early: 0, timeout: 0, malformed: 0 });
  expect(result.requests).toBeGreaterThan(5000);
  await until(() => lb.stats().current_connections === 0, "gauges to return to 0");
});

test("kept connections live through 30 reloads of the file, and not one request fails", async () => {
  const server = await startServer();
  await using _ = server.process;
  const text = (n: number) => pool({ s1: server.address }, { backend: [`retries = ${n}`] });
  await using product = await startConvey(text(0));
  const run = load([
    ...["requests", "--connect", `127.0.0.1:${product.front.port}`, "--connections", "50"],
    ...["--rate", "2000", "--duration", "5", "--warmup", "0.2"],
  ]);
  for (let n = 1; n <= 30; n++) {
    product.replace(text(n));
    await sleep(150);
  }
  const result = await run;
  expect(failed(result)).toBe(0);
  expect(result.requests).toBeGreaterThan(8000);
  const stats = await product.stats();
  expect(stats.last_reload).toMatchObject({ result: "applied" });
  expect(stats.config_version).toBeGreaterThan(5);
  // The generator has fifty at most: a reload that cut them would have made it connect again.
  expect(stats.frontends.web?.total_connections).toBeLessThanOrEqual(50);
});

test.for([1, 2, 4])(
  "under 1,000 connections a second SIGTERM resets nobody who is connected, with %i workers",
  async (workers, context) => {
    // Handshakes are held off by a socket filter, which kernels may refuse to others.
    needs(context, { root: true });
    const server = await startServer();
    await using _ = server.process;
    await using product = await startConvey(
      pool({ s1: server.address }, { top: ["[proxy]", `workers = ${workers}`] }),
    );
    const run = load([
      ...["requests", "--fresh", "--connect", `127.0.0.1:${product.front.port}`],
      ...["--rate", "1000", "--duration", "3", "--warmup", "0.2"],
    ]);
    await until(async () => ((await product.stats()).total_connections ?? 0) > 500, "load", 20_000);
    expect(await product.process.stop("SIGTERM", 20_000)).toEqual({ code: 0, signal: null });
    const { requests, failures } = await run;
    expect(requests).toBeGreaterThan(300);
    expect(failures.connect).toBeGreaterThan(0);
    expect(failures).toMatchObject({ reset: 0, closed_early: 0, malformed: 0 });
  },
);

test("after SIGTERM nothing new is accepted, what is under way finishes, and the exit code is 0", async (context) => {
  needs(context, { tools: ["curl"] });
  await using server = await listening(echo);
  await using product = await startConvey(pool({ s1: server.addr }));
  const client = await dial(product.front);
  client.write("before");
  await once(client, "data");
  product.process.child.kill("SIGTERM");
  await product.process.waitFor(/no new connections; 1 open/);
  const curl = await finish(["curl", "-s", "--max-time", "2", `http://127.0.0.1:${product.front.port}/`]);
  // 7: could not connect.
  expect(curl.code).toBe(7);
  client.write("after");
  expect(String((await once(client, "data"))[0])).toBe("after");
  client.end();
  expect(await product.process.exited).toEqual({ code: 0, signal: null });
});

test("the deadline ends a drain that a client would hold up, with exit code 0", async () => {
  await using server = await listening(echo);
  await using product = await startConvey(
    pool({ s1: server.addr }, { top: ["[shutdown]", "drain_timeout_ms = 700"] }),
  );
  const client = await dial(product.front);
  client.write("hello");
  await once(client, "data");
  const begun = performance.now();
  product.process.child.kill("SIGTERM");
  expect(await product.process.exited).toEqual({ code: 0, signal: null });
  expect(performance.now() - begun).toBeGreaterThan(650);
  expect(performance.now() - begun).toBeLessThan(4000);
});
