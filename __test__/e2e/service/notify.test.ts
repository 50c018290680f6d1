import { appendFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, test } from "vitest";
import { echoServer, type TestServer } from "../../support/control.ts";
import { type Running, start, until } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import { configuration, folder, serving } from "../cli/convey.ts";

const MANAGER = fileURLToPath(new URL("../../support/service-manager.py", import.meta.url));

let server: TestServer;
let home: Awaited<ReturnType<typeof folder>>;

beforeEach(async () => {
  server = await echoServer("s1");
  home = await folder();
});

afterEach(async () => {
  await server.close();
  await home[Symbol.asyncDispose]();
});

/** A manager that hears what services tell at `socket`. */
async function managerAt(socket: string): Promise<Running> {
  const manager = start(["python3", MANAGER, socket]);
  await manager.waitFor(/listening/);
  return manager;
}

/** The datagrams that came, each as its lines. */
const heard = (manager: Running): string[][] =>
  manager.stdout
    .split("\n")
    .slice(1, -1)
    .map((line) => (JSON.parse(line) as string).split("\n"));

const hears = (manager: Running, line: string | RegExp): Promise<string[]> =>
  until(
    () =>
      heard(manager).find((lines) =>
        lines.some((it) => (typeof line === "string" ? it === line : line.test(it))),
      ),
    `${line} at the manager`,
    10_000,
    () => manager.stdout,
  );

for (const kind of ["a path", "an abstract name"]) {
  test(`the manager at ${kind} hears of readiness, a reload by signal, the sign of life and the end`, async (context) => {
    needs(context, { tools: ["python3"] });
    const socket = kind === "a path" ? join(home.path, "notify") : `@convey-test-${process.pid}`;
    await using manager = await managerAt(socket);
    const file = await configuration(home.path, server.port, "[shutdown]\ndrain_timeout_ms = 2000");
    await using running = serving(["-c", file], {
      ...process.env,
      NOTIFY_SOCKET: socket,
      WATCHDOG_USEC: "400000",
      CONVEY_STATE_DIR: home.path,
    });
    const ready = await hears(manager, "READY=1");
    expect(ready).toContain("STATUS=proxy mode, 1 of 1 servers up");
    expect(running.stderr).toContain("is ready (proxy mode)");
    await until(() => heard(manager).filter(([line]) => line === "WATCHDOG=1").length >= 3, "signs of life");

    running.child.kill("SIGHUP");
    const reloading = await hears(manager, "RELOADING=1");
    const [, us] = /^MONOTONIC_USEC=(\d+)$/m.exec(reloading.join("\n")) ?? [];
    const now = Number(process.hrtime.bigint() / 1000n);
    expect(now - Number(us)).toBeGreaterThanOrEqual(0);
    expect(now - Number(us)).toBeLessThan(60_000_000);
    await until(
      () => heard(manager).filter(([line]) => line === "READY=1").length === 2,
      "the end of the reload",
    );

    // One that is refused ends, too: the old configuration serves on.
    await appendFile(file, "nonsense = 1\n");
    await running.waitFor(/reload rejected/);
    running.child.kill("SIGHUP");
    await until(
      () => heard(manager).filter(([line]) => line === "READY=1").length === 3,
      "the end of a refused one",
    );

    running.child.kill("SIGTERM");
    const stopping = await hears(manager, "STOPPING=1");
    expect(stopping).toContain("EXTEND_TIMEOUT_USEC=17000000");
    expect((await running.exited).code).toBe(0);
  });
}

test("the state tells how many servers are up", async (context) => {
  needs(context, { tools: ["python3"] });
  const socket = join(home.path, "notify");
  await using manager = await managerAt(socket);
  const quick = "[backends.pool]\nhealth_check_interval = 1\nhealth_check_fast_interval_ms = 50";
  const file = await configuration(home.path, server.port);
  await writeFile(
    file,
    `${quick}\n[frontends.web]\nlisten_addr = "127.0.0.1:0"\nbackend = "pool"
[backends.pool.servers]\ns1 = { addr = "127.0.0.1:${server.port}" }\n`,
  );
  await using _running = serving(["-c", file], {
    ...process.env,
    NOTIFY_SOCKET: socket,
    CONVEY_STATE_DIR: home.path,
  });
  await hears(manager, "READY=1");
  await server.close();
  await hears(manager, "STATUS=proxy mode, 0 of 1 servers up");
});

test("a start that fails tells the manager why and never says that it is ready", async (context) => {
  needs(context, { tools: ["python3"] });
  const socket = join(home.path, "notify");
  await using manager = await managerAt(socket);
  const file = await configuration(home.path, server.port);
  await writeFile(
    file,
    `[frontends.web]\nlisten_addr = "127.0.0.1:${server.port}"\nbackend = "pool"
[backends.pool.servers]\ns1 = { addr = "127.0.0.2:1" }\n`,
  );
  await using running = serving(["-c", file], { ...process.env, NOTIFY_SOCKET: socket });
  expect((await running.exited).code).toBe(1);
  await hears(manager, /^STATUS=.*EADDRINUSE|^STATUS=.*in use/i);
  expect(heard(manager).flat()).not.toContain("READY=1");
});

test("a manager that is gone costs one line of the log and nothing else", async () => {
  const file = await configuration(home.path, server.port);
  await using running = serving(["-c", file], {
    ...process.env,
    NOTIFY_SOCKET: join(home.path, "nobody"),
    WATCHDOG_USEC: "100000",
    CONVEY_STATE_DIR: home.path,
  });
  await running.waitFor(/cannot be told/);
  running.child.kill("SIGTERM");
  expect((await running.exited).code).toBe(0);
  expect(running.stderr.match(/cannot be told/g)).toHaveLength(1);
});
