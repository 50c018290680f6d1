/** The process runs out of descriptors or the host out of source ports. */
import { once } from "node:events";
import { readdirSync } from "node:fs";
import type { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, expect, test } from "vitest";
import { pool, startConvey } from "../support/convey.ts";
import { loadgenPath, startServer } from "../support/loadgen.ts";
import { cpuSeconds, start, succeed, until } from "../support/processes.ts";
import { needs } from "../support/requirements.ts";
import { address, Row } from "../support/row.ts";
import { dial, echo, listening } from "../support/sockets.ts";

// Built here, so that a first build is not charged to a test.
beforeAll(() => loadgenPath(), 300_000);

test("without file descriptors accepting backs off at under 5 % CPU, and recovers", async (context) => {
  needs(context, { tools: ["prlimit", "curl"] });
  await using server = await listening(echo);
  await using product = await startConvey(pool({ s1: server.addr }, { top: ["[proxy]", "workers = 1"] }));
  const { pid } = product.process;
  // Node and the data plane need about 26 of their own; the limit leaves room for some ten connections. It
  // bounds descriptors by number, and an inherited one may have a high number: hence the first gap.
  const taken = new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
  let limit = 24;
  for (let fd = 0; taken.has(fd); fd++) limit += 1;
  await succeed(["prlimit", "--pid", String(pid), `--nofile=${limit}:${limit}`]);
  const first = await dial(product.front);
  const clients: Socket[] = [first];
  // Before the others come: accepted in one go, they may leave it no descriptor for its server.
  first.write("served");
  await once(first, "data");
  for (let n = 1; n < 64; n++) clients.push(await dial(product.front));
  await sleep(500);
  const before = cpuSeconds(pid);
  await sleep(3000);
  expect(cpuSeconds(pid) - before).toBeLessThan(0.15);
  first.write("and still served");
  expect(String((await once(first, "data"))[0])).toBe("and still served");

  for (const client of clients) client.destroy();
  const again = await until(
    async () => {
      const socket = await dial(product.front);
      socket.write("after");
      const answer = await Promise.race([once(socket, "data"), sleep(500, undefined)]);
      socket.destroy();
      return answer === undefined ? undefined : String(answer[0]);
    },
    "answer after the descriptors came back",
    5_000,
  );
  expect(again).toBe("after");
  const stats = await until(async () => {
    const seen = await product.stats();
    return seen.current_connections === 0 && seen;
  }, "gauges to return to 0");
  expect(product.process.output(), "it is said").toMatch(/accept-backoff.*Too many open files/);
  // Those who wait to be accepted are not closed; the limit came down after they were let in, so that a few may be.
  expect(stats.reasons.fds_exhausted ?? 0).toBeLessThan(10);
  // The shortage is the balancer's own: no server may be blamed for it.
  expect(stats.backends.pool?.server_details.s1).toMatchObject({ up: true, reasons: {} });
});

test("without source ports clients are closed and counted, nothing spins, and it recovers", async (context) => {
  needs(context, { root: true, tools: ["ip", "sysctl", "ethtool", "curl"] });
  await using lab = await Row.create({ balancerPorts: "40000 40009" });
  const server = await startServer({ prefix: lab.at("server"), listen: `${address.server}:9001` });
  await using _ = server.process;
  await using product = await startConvey(
    pool(
      { s1: server.address },
      {
        listen: `${address.front}:8080`,
        backend: ["health_check_interval = 3600", "health_check_fall = 1000"],
      },
    ),
    lab.at("balancer"),
  );
  const target = `${address.front}:8080`;
  const client = lab.at("client", await loadgenPath());
  await using holder = start([...client, "hold", "--connect", target, "--connections", "6"], { stdin: true });
  await holder.waitFor(/"ready"/);
  const run = await succeed([
    ...[...client, "requests", "--fresh", "--connect", target, "--connections", "8"],
    ...["--rate", "50", "--duration", "2", "--warmup", "0"],
  ]);
  const before = cpuSeconds(product.process.pid);
  await sleep(2000);
  expect(cpuSeconds(product.process.pid) - before).toBeLessThan(0.1);
  const stats = await product.stats();
  expect(stats.reasons.ports_exhausted).toBeGreaterThan(10);
  expect(JSON.parse(run)).toMatchObject({ failures: { timeout: 0 } });

  holder.child.stdin?.end();
  await holder.exited;
  await until(
    async () =>
      (await start([...client, "hold", "--connect", target, "--connections", "1"]).exited).code === 0,
    "connection after the ports came back",
    10_000,
  );
});
