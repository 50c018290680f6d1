/** `shutdown.delay_ms`: not ready any more, and still accepting. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ask } from "../../support/control.ts";
import { until } from "../../support/processes.ts";
import { echo, freePort, listening } from "../../support/sockets.ts";
import { exchange, folder, minimal, ready } from "./convey.ts";

async function started(directory: string, delayMs: number) {
  const server = await listening(echo);
  const stats = { host: "127.0.0.1", port: await freePort() };
  const file = join(directory, "config.toml");
  const extra = `[shutdown]\ndelay_ms = ${delayMs}\n[stats]\nport = ${stats.port}`;
  await writeFile(file, minimal(server.port, extra), { mode: 0o644 });
  const { running, port } = await ready(file);
  const readyz = async () => (await ask(stats, "/readyz")).status;
  await until(async () => (await readyz()) === 200, "it to be ready");
  return { server, running, port, readyz };
}

test("after SIGTERM /readyz answers 503 while connections are taken for shutdown.delay_ms, then none are", async () => {
  await using home = await folder();
  const { server, running, port, readyz } = await started(home.path, 3000);
  await using _server = server;
  await using _running = running;
  const begun = performance.now();
  running.child.kill("SIGTERM");
  await until(async () => (await readyz()) === 503, "it to be not ready");
  expect(await exchange(port, "still here")).toBe("still here");
  expect(await running.exited).toMatchObject({ code: 0 });
  expect(performance.now() - begun).toBeGreaterThan(2900);
  expect(running.output()).toContain("not ready any more; new connections are taken for 3000 ms yet");
});

test("a second signal ends the delay", async () => {
  await using home = await folder();
  const { server, running, readyz } = await started(home.path, 60_000);
  await using _server = server;
  await using _running = running;
  const begun = performance.now();
  running.child.kill("SIGTERM");
  await until(async () => (await readyz()) === 503, "it to be not ready");
  running.child.kill("SIGTERM");
  expect(await running.exited).toMatchObject({ code: 0 });
  expect(performance.now() - begun).toBeLessThan(30_000);
});
