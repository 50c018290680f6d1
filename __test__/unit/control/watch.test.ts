import { createHash } from "node:crypto";
import {
  appendFile,
  mkdir,
  mkdtemp,
  readFile,
  rename,
  rm,
  symlink,
  unlink,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { ConfigWatcher } from "../../../ts/control/watch.ts";

let directory: string;
let watcher: ConfigWatcher | undefined;
let changes: string[];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "convey-watch-"));
  changes = [];
});

afterEach(async () => {
  await watcher?.close();
  await rm(directory, { recursive: true, force: true });
});

const file = (): string => join(directory, "config.toml");
const hash = (content: string): string => createHash("sha256").update(content).digest("hex");

async function watch(content: string): Promise<void> {
  watcher = await ConfigWatcher.start(file(), hash(content), async (change) => {
    changes.push(change);
    return accepted;
  });
}

let accepted = true;

/**
 * Waits for exactly these changes so far, then makes sure that no more follow. The time is that of the poll, which
 * is all that sees a change of which the kernel's events told nothing, and some for a busy machine.
 */
async function settlesOn(expected: string[], withinMs = 8000): Promise<void> {
  await vi.waitFor(() => expect(changes).toEqual(expected), { timeout: withinMs, interval: 20 });
  await sleep(300);
  expect(changes).toEqual(expected);
}

/** Writes ever new content; returns how often a busy machine left a pause long enough for the file to count as written. */
async function writeEvery(periodMs: number, forMs: number): Promise<number> {
  const begin = performance.now();
  let pauses = 0;
  for (let last = begin; last < begin + forMs; ) {
    await writeFile(file(), `at ${last}`);
    await sleep(periodMs);
    const now = performance.now();
    if (now - last > 90) pauses++;
    last = now;
  }
  return pauses;
}

test("writing in place is seen, once for each content", async () => {
  await writeFile(file(), "a");
  await watch("a");
  await writeFile(file(), "b");
  await settlesOn(["changed"]);
  await writeFile(file(), "b");
  await settlesOn(["changed"]);
  await writeFile(file(), "c");
  await settlesOn(["changed", "changed"]);
});

test("renaming over it is seen, again and again", async () => {
  await writeFile(file(), "0");
  await watch("0");
  for (let i = 1; i <= 3; i++) {
    await writeFile(join(directory, "new.tmp"), String(i));
    await rename(join(directory, "new.tmp"), file());
    await settlesOn(Array.from({ length: i }, () => "changed"));
  }
});

test("the last of many writes that follow each other closely is seen soon", { retry: 2 }, async () => {
  await writeFile(file(), "0");
  let seen = "0";
  watcher = await ConfigWatcher.start(file(), hash("0"), async () => {
    seen = await readFile(file(), "utf8");
    return true;
  });
  for (let round = 0; round < 3; round++) {
    const end = performance.now() + 1010 + 20 * round;
    let last = "";
    for (let i = 1; performance.now() < end; i++) {
      last = `${round} ${i}`;
      await writeFile(join(directory, "new.tmp"), last);
      await rename(join(directory, "new.tmp"), file());
      await sleep(5);
    }
    await vi.waitFor(() => expect(seen).toBe(last), { timeout: 2500, interval: 20 });
  }
});

test("an editor that moves the old file away and writes a new one causes one change and no alarm", async () => {
  await writeFile(file(), "a");
  await watch("a");
  await rename(file(), `${file()}~`);
  await sleep(200);
  await writeFile(file(), "b");
  await settlesOn(["changed"]);
});

test("the ..data link that Kubernetes swaps is seen", async () => {
  for (const version of ["1", "2", "3"]) {
    await mkdir(join(directory, `..${version}`));
    await writeFile(join(directory, `..${version}`, "config.toml"), version);
  }
  await symlink("..1", join(directory, "..data"));
  await symlink(join("..data", "config.toml"), file());
  await watch("1");
  for (const version of ["2", "3"]) {
    await symlink(`..${version}`, join(directory, "..data_tmp"));
    await rename(join(directory, "..data_tmp"), join(directory, "..data"));
    await settlesOn(Array.from({ length: Number(version) - 1 }, () => "changed"));
  }
});

test("a removed file is reported once; made again it is seen", async () => {
  await writeFile(file(), "a");
  await watch("a");
  await unlink(file());
  await settlesOn(["missing"]);
  await writeFile(file(), "b");
  await settlesOn(["missing", "changed"]);
  await writeFile(file(), "c");
  await settlesOn(["missing", "changed", "changed"]);
});

test("writes that follow each other are one change", async () => {
  await writeFile(file(), "");
  await watch("");
  const pauses = await writeEvery(20, 200);
  await vi.waitFor(() => expect(changes.length).toBeGreaterThanOrEqual(1), { timeout: 8000 });
  await sleep(800);
  expect(changes.length).toBeLessThanOrEqual(1 + pauses);
});

test("a file written without pause is looked at nevertheless", async () => {
  await writeFile(file(), "");
  await watch("");
  const pauses = await writeEvery(30, 2500);
  expect(changes.length).toBeGreaterThanOrEqual(1);
  expect(changes.length).toBeLessThanOrEqual(4 + pauses);
});

test("what happens to other files in the directory is none of its business", async () => {
  await writeFile(file(), "a");
  await watch("a");
  for (let i = 0; i < 20; i++) await writeFile(join(directory, `other-${i}`), "x");
  await settlesOn([]);
});

test("a log that grows in the same directory costs nothing, however many files lie there", async () => {
  await writeFile(file(), "a");
  for (let i = 0; i < 1000; i++) await writeFile(join(directory, `other-${i}`), "x");
  await watch("a");
  await sleep(1000);
  const before = process.cpuUsage();
  for (let i = 0; i < 40; i++) {
    await appendFile(join(directory, "other-0"), "line");
    await sleep(50);
  }
  const { user, system } = process.cpuUsage(before);
  expect((user + system) / 1000, "ms of CPU").toBeLessThan(250);
  await settlesOn([]);
});

test("what was written between reading and watching is not missed", async () => {
  await writeFile(file(), "b");
  await watch("a");
  await settlesOn(["changed"]);
});

test("the target of a link elsewhere is found out by the poll", async () => {
  const elsewhere = await mkdtemp(join(tmpdir(), "convey-watch-target-"));
  await writeFile(join(elsewhere, "real.toml"), "a");
  await symlink(join(elsewhere, "real.toml"), file());
  await watch("a");
  await sleep(200);
  await writeFile(join(elsewhere, "real.toml"), "b");
  await settlesOn(["changed"]);
  await rm(elsewhere, { recursive: true });
});

test("a directory that is removed and made again is watched again", async () => {
  await writeFile(file(), "a");
  await watch("a");
  await rm(directory, { recursive: true });
  await vi.waitFor(() => expect(changes).toEqual(["missing"]), { timeout: 8000 });
  await mkdir(directory);
  await writeFile(file(), "b");
  await settlesOn(["missing", "changed"]);
  await writeFile(file(), "c");
  await settlesOn(["missing", "changed", "changed"]);
});

test("content that was refused is told again when it is saved again, and only then", async () => {
  accepted = false;
  try {
    await watch("good");
    await writeFile(file(), "bad");
    await settlesOn(["changed"]);
    // The poll and a look without a change of the file say nothing new.
    await sleep(3200);
    expect(changes).toEqual(["changed"]);
    await writeFile(file(), "bad");
    await settlesOn(["changed", "changed"]);
    accepted = true;
    await writeFile(file(), "bad");
    await settlesOn(["changed", "changed", "changed"]);
    await writeFile(file(), "bad");
    await settlesOn(["changed", "changed", "changed"]);
  } finally {
    accepted = true;
  }
});
