import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, test } from "vitest";
import { blackHole, httpServer } from "../../support/control.ts";

const LOADER = new URL("../../support/typescript.mjs", import.meta.url).href;
const FORGOTTEN = fileURLToPath(new URL("../../support/forgotten-close.ts", import.meta.url));
const STARVED = fileURLToPath(new URL("../../support/no-descriptors.ts", import.meta.url));
const SAMPLE = fileURLToPath(new URL("../../../samples/embedded.ts", import.meta.url));

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "convey-process-"));
});

afterEach(async () => {
  await rm(directory, { recursive: true });
});

const run = (script: string, ...args: string[]) =>
  promisify(execFile)(process.execPath, ["--import", LOADER, script, ...args], { timeout: 100_000 });

test("a program that forgets close() ends by itself", async () => {
  await using server = await httpServer("s1");
  const { stdout } = await run(FORGOTTEN, join(directory, "config.toml"), server.addr);
  expect(stdout).toBe("end of program\n");
}, 120_000);

test("it ends, too, while a health check waits for a server that does not answer", async () => {
  await using hung = await blackHole();
  // The check would wait for ten minutes: a program that ends within the time of this test has not waited for it.
  const { stdout } = await run(FORGOTTEN, join(directory, "config.toml"), hung.addr);
  expect(stdout).toBe("end of program\n");
}, 120_000);

test("without file descriptors no server is held for down; it is said once, and checks go on afterwards", async () => {
  await using server = await httpServer("s1");
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
