import { mkdtemp, readdir, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { createBalancer } from "../../../ts/index.ts";
import {
  answers,
  blackHole,
  collect,
  echoServer,
  poolConfig,
  serverStats as server,
} from "../../support/control.ts";
import { start } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import { freePort, listening } from "../../support/sockets.ts";

test("a server that dies leaves selection once, comes back once, and both are events with a cause", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }));
  const seen = collect(lb);
  await b.close();
  await vi.waitFor(() => expect(server(lb, "b").up).toBe(false), { timeout: 5000 });
  expect(lb.stats().backends.pool?.servers).toEqual({ [a.addr]: true, [b.addr]: false });
  expect(await answers(lb, 10)).toEqual({ a: 10 });
  await using _again = await echoServer("b", b.port);
  await vi.waitFor(() => expect(server(lb, "b").up).toBe(true), { timeout: 5000 });
  expect(await answers(lb, 10)).toEqual({ a: 5, b: 5 });
  await vi.waitFor(() =>
    expect(seen.filter((e) => e.type === "server")).toMatchObject([
      { backend: "pool", server: "b", addr: b.addr, state: "down", cause: expect.stringContaining("3 ") },
      { backend: "pool", server: "b", addr: b.addr, state: "up", cause: expect.stringContaining("2 ") },
    ]),
  );
});

test("every transition is logged once, with its cause", async () => {
  const lines: string[] = [];
  const write = (_: object, message: string) => lines.push(message);
  const dead = await freePort();
  await using lb = await createBalancer(
    poolConfig({ dead: { addr: `127.0.0.1:${dead}` } }, { pool: { health_check_fall: 1 } }),
    { logger: { debug: write, info: write, warn: write, error: write } },
  );
  await vi.waitFor(() => expect(server(lb, "dead").up).toBe(false));
  await sleep(300);
  expect(lines).toEqual([
    "server pool/dead is down: check failed: connection refused (ECONNREFUSED)",
    "backend pool has no server left",
  ]);
});

test("a connect that fails in the data plane is answered by another server and counts as a failed check", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  // An interval so long that no scheduled check can be what finds out.
  await using lb = await createBalancer(
    poolConfig(
      { a: { addr: a.addr }, b: { addr: b.addr } },
      { pool: { health_check_interval: 3600, health_check_fall: 1 } },
    ),
  );
  await vi.waitFor(() => expect(server(lb, "b").last_check?.ok).toBe(true));
  const seen = collect(lb);
  await b.close();
  expect(await answers(lb, 2)).toEqual({ a: 2 });
  await vi.waitFor(() => expect(server(lb, "b").up).toBe(false));
  await vi.waitFor(() =>
    expect(seen).toMatchObject([
      { type: "server", server: "b", state: "down", cause: expect.stringContaining("data plane") },
    ]),
  );
});

test("a server in a full accept queue times out; the other checks are not held up by it", async () => {
  await using a = await echoServer("a");
  await using slow = await listening((socket) => void socket.pause());
  await using hung = await blackHole();
  await using lb = await createBalancer(
    poolConfig(
      { hung: { addr: hung.addr }, a: { addr: a.addr }, slow: { addr: slow.addr } },
      { pool: { health_check_timeout_ms: 200, health_check_fall: 2 } },
    ),
  );
  await vi.waitFor(() => expect(server(lb, "hung").up).toBe(false), { timeout: 5000 });
  expect(server(lb, "hung").last_check?.cause).toBe("no answer within 200 ms");
  expect(server(lb, "a").last_check).toMatchObject({ ok: true });
  expect(server(lb, "a").last_check?.duration_ms).toBeLessThan(200);
  expect(server(lb, "slow").up).toBe(true);
});

test("checks leak no file descriptors, whether they succeed, fail or time out", async () => {
  const descriptors = async () => (await readdir("/proc/self/fd")).length;
  await using a = await echoServer("a");
  await using hung = await blackHole();
  const dead = await freePort();
  await using lb = await createBalancer(
    poolConfig(
      { a: { addr: a.addr }, hung: { addr: hung.addr }, dead: { addr: `127.0.0.1:${dead}` } },
      {
        pool: {
          health_check_timeout_ms: 30,
          health_check_fast_interval_ms: 20,
          health_check_fall: 1000,
          health_check_rise: 1000,
        },
      },
    ),
  );
  await sleep(300);
  const before = await descriptors();
  await sleep(3000);
  expect(await descriptors()).toBeLessThanOrEqual(before + 4);
  expect(lb.stats().total_connections).toBe(0);
});

test("nginx, checked a hundred times, logs no error", async (context) => {
  needs(context, { tools: ["nginx"] });
  const directory = await mkdtemp(join(tmpdir(), "convey-nginx-"));
  const port = await freePort();
  const log = join(directory, "error.log");
  await writeFile(
    join(directory, "nginx.conf"),
    `daemon off; worker_processes 1; pid ${directory}/pid; error_log ${log} info;
     events {}
     http { access_log ${directory}/access.log; server { listen 127.0.0.1:${port}; return 200 "nginx"; } }`,
  );
  // Down before nginx starts and never up again, so that every check comes at the fast interval.
  await using lb = await createBalancer(
    poolConfig(
      { n: { addr: `127.0.0.1:${port}` } },
      { pool: { health_check_fall: 1, health_check_rise: 1000, health_check_fast_interval_ms: 10 } },
    ),
  );
  await vi.waitFor(() => expect(server(lb, "n").up).toBe(false));
  await using _nginx = start(["nginx", "-p", directory, "-c", join(directory, "nginx.conf")]);
  const checks = async () => (await readFile(log, "utf8").catch(() => "")).split("client closed connection");
  await vi.waitFor(async () => expect((await checks()).length).toBeGreaterThan(100), { timeout: 15_000 });
  expect(await readFile(log, "utf8")).not.toMatch(/\[(warn|error|crit|alert|emerg)\]/);
  expect(await readFile(join(directory, "access.log"), "utf8")).toBe("");
});
