import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { formatProblems } from "../../../ts/config/diagnostics.ts";
import { loadConfigFile } from "../../../ts/config/load.ts";
import { hashFiles } from "../../../ts/control/content.ts";

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "convey-include-"));
});
afterEach(async () => await rm(folder, { recursive: true, force: true }));

async function put(files: Record<string, string>): Promise<string> {
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), text, { mode: 0o600 });
  }
  return join(folder, "main.toml");
}

/** Problems with the folder left out. */
async function told(files: Record<string, string>): Promise<string[]> {
  const result = await loadConfigFile(await put(files), [], { host: false, env: { DIR: "conf.d" } });
  const problems = result.ok ? result.warnings : result.problems;
  return formatProblems(problems)
    .replaceAll(`${folder}/`, "")
    .split("\n")
    .filter((line) => line !== "");
}

const FRONTEND = '[frontends.web]\nlisten_addr = "127.0.0.1:3000"\nbackend = "pool"\n';
const server = (name: string): string =>
  `[backends.pool.servers.${name}]\naddr = "127.0.0.1:${8000 + name.length}"\n`;

test("files are found by * and ? in their names, sorted, and put together by tables", async () => {
  const main = await put({
    "main.toml": `include = ["conf.d/*.toml", "one.tom?"]\n[backends.pool]\nretries = 5\n[log]\nlevel = "warn"\n`,
    "conf.d/20-b.toml": server("bbb"),
    "conf.d/10-a.toml": FRONTEND + server("a"),
    "conf.d/.hidden.toml": "= broken",
    "conf.d/notes.txt": "= broken",
    "one.toml": "# nothing yet\n",
  });
  const result = await loadConfigFile(main, [], { host: false });
  if (!result.ok) throw new Error(formatProblems(result.problems));
  expect(Object.keys(result.config.backends.pool?.servers ?? {})).toEqual(["a", "bbb"]);
  expect(result.config.backends.pool?.retries).toBe(5);
  expect(result.config.log.level).toBe("warn");
  expect("include" in result.config).toBe(false);
  expect((await hashFiles(main)).hash).toBe(result.source.hash);
  expect((await hashFiles(main)).folders).toEqual([join(folder, "conf.d"), folder]);
});

test("problems are told at their places in the files they stand in", async () => {
  expect(
    await told({
      "main.toml": `include = "\${DIR}/*.toml"\n[log]\nlevel = "loud"\n`,
      "conf.d/a.toml": FRONTEND.replace("3000", "99999"),
      "conf.d/b.toml": `\n${server("s")}wieght = 1\n`,
    }),
  ).toEqual(
    [
      'main.toml:3:9: error: log.level: is not a value it can have (found "loud", expected one of "debug", "info", "warn", "error", "silent")',
      'conf.d/a.toml:2:15: error: frontends.web.listen_addr: has a port that is not a number from 0 to 65535 (found "127.0.0.1:99999", expected "ip:port", such as "127.0.0.1:3000", "[::1]:3000" or ":3000")',
      'conf.d/b.toml:4:1: error: backends.pool.servers.s.wieght: unknown key; did you mean "weight"?',
    ].map((line) => expect.stringContaining(line.split(" (")[0] ?? "")),
  );
});

test("what two files say is an error that names both places", async () => {
  expect(
    await told({
      "main.toml": `include = ["conf.d/*.toml"]\n${FRONTEND}[backends.pool]\nretries = 5\n${server("s")}[log]\nlevel = "warn"\n`,
      "conf.d/a.toml": `${FRONTEND}[backends.pool]\nretries = 5\n`,
      "conf.d/b.toml": `${server("s")}[log]\nlevel = "warn"\n`,
    }),
  ).toEqual([
    "conf.d/a.toml:1:12: error: frontends.web: this frontend is in main.toml:2:12 too (expected frontends.web in one file)",
    "conf.d/a.toml:4:11: error: backends.pool: this backend is in main.toml:5:11 too (expected backends.pool in one file)",
    "conf.d/b.toml:1:24: error: backends.pool.servers.s: this server is in main.toml:7:24 too (expected backends.pool.servers.s in one file)",
    "conf.d/b.toml:4:1: error: log.level: this key is in main.toml:10:1 too (expected log.level in one file)",
  ]);
});

test("only the main file includes", async () => {
  const files = {
    "main.toml": `include = ["a.toml"]\n${FRONTEND}`,
    "a.toml": `include = ["b.toml"]\n${server("s")}`,
  };
  expect(await told(files)).toEqual(["a.toml:1:1: error: include: only the main file may include others"]);
});

test("a path that names no file is an error; a pattern that fits none and one that fits the file itself are not", async () => {
  const rest = FRONTEND + server("s");
  expect(await told({ "main.toml": `include = ["none.d/*.toml", "*.toml"]\n${rest}` })).toEqual([]);
  expect(await told({ "main.toml": `include = ["x/*", "gone.toml"]\n${rest}` })).toEqual([
    'main.toml:1:19: error: include.1: names a file that cannot be included: gone.toml no such file (found "gone.toml")',
  ]);
  expect(await told({ "main.toml": `include = "main.toml"\n${rest}` })).toEqual([
    'main.toml:1:11: error: include: is the file itself (found "main.toml")',
  ]);
  expect(await told({ "main.toml": `include = ["*/a.toml"]\n${rest}` })).toEqual([
    'main.toml:1:12: error: include.0: has * or ? in the name of a folder, and they are for names of files alone (found "*/a.toml")',
  ]);
  expect(await told({ "main.toml": `include = [3]\n${rest}` })).toEqual([
    expect.stringContaining("main.toml:1:"),
  ]);
});

test("an included file that is no TOML, no file or too large is told by name", async () => {
  const main = `include = ["a.toml", "folder"]\n${FRONTEND}${server("s")}`;
  await mkdir(join(folder, "folder"));
  expect(await told({ "main.toml": main, "a.toml": "x = \n" })).toEqual([
    expect.stringMatching(/^a\.toml:1:\d+: error: not valid TOML/),
    'main.toml:1:22: error: include.1: names a file that cannot be included: folder is a directory (found "folder")',
  ]);
  await rm(join(folder, "a.toml"));
  await symlink("/dev/zero", join(folder, "a.toml"));
  expect((await told({ "main.toml": main })).join("\n")).toContain("a.toml is not a regular file");
});

test("256 files may be included and no more", async () => {
  const many = Object.fromEntries(Array.from({ length: 257 }, (_, n) => [`d/${n}.toml`, ""]));
  expect(await told({ "main.toml": `include = "d/*"\n${FRONTEND}${server("s")}`, ...many })).toEqual([
    'main.toml:1:11: error: include: makes more than 256 files, the most that may be included (found "d/*")',
  ]);
});

test("an included file that others can write is warned of", async () => {
  const main = await put({ "main.toml": `include = "a.toml"\n${FRONTEND}`, "a.toml": server("s") });
  await chmod(join(folder, "a.toml"), 0o662);
  const result = await loadConfigFile(main, [], { host: false });
  expect(result.ok && result.warnings.map(({ file, message }) => `${file}: ${message}`)).toEqual([
    expect.stringContaining(`${folder}/a.toml: every user can write this file`),
  ]);
});
