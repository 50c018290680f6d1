import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, test } from "vitest";
import { blackHole, Client, type Closable, echoServer, httpServer } from "../../support/control.ts";

const LOADER = new URL("../../support/typescript.mjs", import.meta.url).href;
const BLOCKED = fileURLToPath(new URL("../../support/blocked-loop.ts", import.meta.url));
const FORGOTTEN = fileURLToPath(new URL("../../support/forgotten-close.ts", import.meta.url));
const STARVED = fileURLToPath(new URL("../../support/no-descriptors.ts", import.meta.url));
const SAMPLE = fileURLToPath(new URL("../../../samples/embedded.ts", import.meta.url));

const toClose: Closable[] = [];
let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "convey-process-"));
});

afterEach(async () => {
  for (const it of toClose.splice(0).reverse()) await it.close();
  await rm(directory, { recursive: true });
});

const run = (script: string, ...args: string[]) =>
  promisify(execFile)(process.execPath, ["--import", LOADER, script, ...args], { timeout: 20_000 });

function spawnScript(script: string, ...args: string[]): ChildProcess {
  const child = spawn(process.execPath, ["--import", LOADER, script, ...args], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  toClose.push({
    close: async () => {
      child.kill("SIGKILL");
      if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    },
  });
  return child;
}

test("while Node's event loop is blocked traffic goes on, and no server is held for down afterwards", async () => {
  const server = await echoServer("s1");
  toClose.push(server);
  const child = spawnScript(BLOCKED, server.addr);
  const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]();
  const next = async () => JSON.parse((await lines.next()).value as string);
  const { port } = await next();
  const established = await Client.open({ host: "127.0.0.1", port });
  let awake = false;
  child.stdin?.write("3000\n");
  const woke = next().then(() => {
    awake = true;
  });
  await sleep(300);
  const until = performance.now() + 2200;
  let slowestMs = 0;
  let exchanged = 0;
  while (performance.now() < until) {
    const startedAt = performance.now();
    expect(await established.echo("established")).toBe("established");
    const fresh = await Client.open({ host: "127.0.0.1", port });
    expect(fresh.greeting).toBe("s1");
    fresh.close();
    slowestMs = Math.max(slowestMs, performance.now() - startedAt);
    exchanged += 1;
    await sleep(10);
  }
  expect(awake).toBe(false);
  expect(exchanged).toBeGreaterThan(20);
  expect(slowestMs).toBeLessThan(500);
  await woke;
  expect(await next()).toEqual({ up: true, transitions: 0 });
  established.close();
  child.stdin?.end();
  expect(await once(child, "exit")).toEqual([0, null]);
});

test("a program that forgets close() ends by itself", async () => {
  const server = await httpServer("s1");
  toClose.push(server);
  const { stdout } = await run(FORGOTTEN, join(directory, "config.toml"), server.addr);
  expect(stdout).toBe("end of program\n");
});

test("it ends, too, while a health check waits for a server that does not answer", async () => {
  const hung = await blackHole();
  toClose.push(hung);
  const startedAt = performance.now();
  const { stdout } = await run(FORGOTTEN, join(directory, "config.toml"), hung.addr);
  expect(stdout).toBe("end of program\n");
  expect(performance.now() - startedAt).toBeLessThan(15_000);
});

test("without file descriptors no server is held for down; it is said once, and checks go on afterwards", async () => {
  const server = await httpServer("s1");
  toClose.push(server);
  const { stdout } = await promisify(execFile)("bash", [
    "-c",
    'ulimit -n 128 && exec "$0" "$@"',
    process.execPath,
    "--import",
    LOADER,
    STARVED,
    server.addr,
  ]);
  expect(JSON.parse(stdout)).toEqual({
    taken: true,
    up: true,
    checkedAgain: true,
    events: ["health-check-suspended"],
  });
});

test("the sample of an embedded balancer runs to its end and prints what it promises", async () => {
  const { stdout } = await run(SAMPLE);
  const lines = stdout.trim().split("\n");
  const answers = lines[0]?.replace("weights 1 and 3: ", "").split(" ") ?? [];
  expect(answers.filter((a) => a === "one").length).toBe(2);
  expect(answers.filter((a) => a === "two").length).toBe(6);
  expect(lines.slice(1)).toEqual(
    expect.arrayContaining([
      "drain of s2: started",
      "drain of s2: drained",
      "with s2 drained: one one",
      "10 connections, bytes counted",
      "closed",
    ]),
  );
});
