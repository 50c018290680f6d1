import { mkdir, mkdtemp, rename, rm, symlink, unlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { hashFiles } from "../../../ts/control/content.ts";
import { ConfigWatcher } from "../../../ts/control/watch.ts";

let directory: string;
let watcher: ConfigWatcher | undefined;
let changes: string[];
let accepted = true;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "convey-watch-included-"));
  changes = [];
  accepted = true;
});

afterEach(async () => {
  await watcher?.close();
  await rm(directory, { recursive: true, force: true });
});

const at = (...path: string[]): string => join(directory, ...path);

async function watch(): Promise<void> {
  const { hash } = await hashFiles(at("main.toml"));
  watcher = await ConfigWatcher.start(at("main.toml"), hash, async (change) => {
    changes.push(change);
    return accepted;
  });
  // The folders are known once it has looked.
  await sleep(700);
}

async function settlesOn(expected: string[]): Promise<void> {
  await vi.waitFor(() => expect(changes).toEqual(expected), { timeout: 8000, interval: 20 });
  await sleep(300);
  expect(changes).toEqual(expected);
}

test("a file that changes, comes or goes in an included folder is seen, each once", async () => {
  await mkdir(at("conf.d"));
  await writeFile(at("main.toml"), 'include = ["conf.d/*.toml"]\n');
  await writeFile(at("conf.d", "a.toml"), "a = 1\n");
  await watch();
  await writeFile(at("conf.d", "a.toml"), "a = 2\n");
  await settlesOn(["changed"]);
  await writeFile(at("conf.d", "b.toml"), "b = 1\n");
  await settlesOn(["changed", "changed"]);
  // No file that fits.
  await writeFile(at("conf.d", "b.toml.swp"), "b = 1\n");
  await settlesOn(["changed", "changed"]);
  await unlink(at("conf.d", "a.toml"));
  await settlesOn(["changed", "changed", "changed"]);
  await writeFile(at("conf.d", "new"), "b = 2\n");
  await rename(at("conf.d", "new"), at("conf.d", "b.toml"));
  await settlesOn(["changed", "changed", "changed", "changed"]);
});

test("an include that comes is followed, and a folder that is made later", async () => {
  await writeFile(at("main.toml"), "a = 1\n");
  await watch();
  await writeFile(at("main.toml"), 'include = ["later.d/*.toml"]\n');
  await settlesOn(["changed"]);
  await mkdir(at("later.d"));
  await writeFile(at("later.d", "a.toml"), "a = 1\n");
  await settlesOn(["changed", "changed"]);
  await writeFile(at("later.d", "a.toml"), "a = 2\n");
  await settlesOn(["changed", "changed", "changed"]);
});

test("the swap of a ConfigMap's ..data in an included folder is seen", async () => {
  for (const [version, text] of [
    ["..1", "a = 1\n"],
    ["..2", "a = 2\n"],
  ] as const) {
    await mkdir(at("conf.d", version), { recursive: true });
    await writeFile(at("conf.d", version, "a.toml"), text);
  }
  await symlink("..1", at("conf.d", "..data"));
  await symlink("..data/a.toml", at("conf.d", "a.toml"));
  await writeFile(at("main.toml"), 'include = ["conf.d/*.toml"]\n');
  await watch();
  await symlink("..2", at("conf.d", "..data_tmp"));
  await rename(at("conf.d", "..data_tmp"), at("conf.d", "..data"));
  await settlesOn(["changed"]);
});

test("an included file that was refused is offered again when it is saved again", async () => {
  accepted = false;
  await writeFile(at("main.toml"), 'include = ["a.toml"]\n');
  await writeFile(at("a.toml"), "a = 1\n");
  await watch();
  await writeFile(at("a.toml"), "a = 2\n");
  await settlesOn(["changed"]);
  await writeFile(at("a.toml"), "a = 2\n");
  await settlesOn(["changed", "changed"]);
});
