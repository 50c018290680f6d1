import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, expect, test, vi } from "vitest";
import {
  answers,
  blackHole,
  collect,
  harness,
  poolConfig,
  serverStats as server,
} from "../../support/control.ts";
import { needs } from "../../support/requirements.ts";
import { freePort } from "../../support/sockets.ts";

const bench = harness();
const { balance, echo, toClose } = bench;

afterEach(bench.closeAll);

test("a server that dies leaves selection once, comes back once, and both are events with a cause", async () => {
  const [a, b] = [await echo("a"), await echo("b")];
  const lb = await balance(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }));
  const seen = collect(lb);
  await b.close();
  await vi.waitFor(() => expect(server(lb, "b").up).toBe(false), { timeout: 5000 });
  expect(lb.stats().backends.pool?.servers).toEqual({ [a.addr]: true, [b.addr]: false });
  expect(await answers(lb, 10)).toEqual({ a: 10 });
  await echo("b", b.port);
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
  const lb = await balance(
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
  const [a, b] = [await echo("a"), await echo("b")];
  // An interval so long that no scheduled check can be what finds out.
  const lb = await balance(
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
  const a = await echo("a");
  const full = createServer({ pauseOnConnect: true }).listen(0, "127.0.0.1");
  await once(full, "listening");
  const { port } = full.address() as { port: number };
  const hung = await blackHole();
  toClose.push(hung, { close: async () => void full.close() });
  const lb = await balance(
    poolConfig(
      { hung: { addr: hung.addr }, a: { addr: a.addr }, slow: { addr: `127.0.0.1:${port}` } },
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
  const a = await echo("a");
  const hung = await blackHole();
  toClose.push(hung);
  const dead = await freePort();
  const lb = await balance(
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
  const lb = await balance(
    poolConfig(
      { n: { addr: `127.0.0.1:${port}` } },
      { pool: { health_check_fall: 1, health_check_rise: 1000, health_check_fast_interval_ms: 10 } },
    ),
  );
  await vi.waitFor(() => expect(server(lb, "n").up).toBe(false));
  const nginx = spawn("nginx", ["-p", directory, "-c", join(directory, "nginx.conf")], { stdio: "ignore" });
  toClose.push({
    close: async () => {
      nginx.kill("SIGTERM");
      if (nginx.exitCode === null) await once(nginx, "exit");
      await rm(directory, { recursive: true });
    },
  });
  const checks = async () => (await readFile(log, "utf8").catch(() => "")).split("client closed connection");
  await vi.waitFor(async () => expect((await checks()).length).toBeGreaterThan(100), { timeout: 15_000 });
  expect(await readFile(log, "utf8")).not.toMatch(/\[(warn|error|crit|alert|emerg)\]/);
  expect(await readFile(join(directory, "access.log"), "utf8")).toBe("");
});
