import { createHash } from "node:crypto";
import { chmod, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { loadConfigFile, loadConfigText, MAX_FILE_BYTES } from "../../../ts/config/load.ts";
import { LEAST, lines } from "./support.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "convey-config-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** Writes a file that nobody else can write and returns its path. */
async function file(name: string, content: string | Uint8Array): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, content);
  await chmod(path, 0o644);
  return path;
}

async function linesOfFile(path: string): Promise<string[]> {
  return lines(await loadConfigFile(path));
}

/** Root reads everything, so it steps down for a moment; anyone else runs the action as is. */
async function asNobody<T>(action: () => Promise<T>): Promise<T> {
  if (process.geteuid?.() !== 0) return action();
  process.seteuid?.(65534);
  try {
    return await action();
  } finally {
    process.seteuid?.(0);
  }
}

test("a file yields its configuration, name and hash", async () => {
  const path = await file("least.toml", LEAST);
  const result = await loadConfigFile(path);
  expect(result).toMatchObject({
    ok: true,
    config: { mode: "proxy", frontends: { web: { listen_addr: "127.0.0.1:3000" } } },
    warnings: [],
    source: { file: path, hash: createHash("sha256").update(LEAST).digest("hex") },
  });
});

test("a file that is not there is told with what to do", async () => {
  const path = join(folder, "nowhere.toml");
  expect(await linesOfFile(path)).toEqual([
    `${path}: error: no such file (expected a configuration; name it with --config=<file>)`,
  ]);
});

test("a file below something that is no directory is not there either", async () => {
  const path = join(await file("plain.toml", LEAST), "config.toml");
  expect(await linesOfFile(path)).toEqual([
    `${path}: error: no such file (expected a configuration; name it with --config=<file>)`,
  ]);
});

test("a directory is told as one", async () => {
  expect(await linesOfFile(folder)).toEqual([`${folder}: error: is a directory (expected a TOML file)`]);
});

test("a file that this user cannot read is told", async () => {
  const path = await file("secret.toml", LEAST);
  await chmod(path, 0);
  expect(await asNobody(() => linesOfFile(path))).toEqual([
    `${path}: error: cannot be read: permission denied (expected read permission for this user)`,
  ]);
});

test("a name with a NUL is told, not thrown", async () => {
  expect(await linesOfFile("a\0b")).toEqual(["a\\u0000b: error: is not a file name"]);
});

test("links in a circle are told, not thrown", async () => {
  const path = join(folder, "loop.toml");
  await symlink(path, path);
  expect((await linesOfFile(path))[0]).toContain(`${path}: error: cannot be read: ELOOP`);
});

test.each(["", "\n", " \r\n\t\n", "\ufeff"])("an empty file is told (%j)", async (content) => {
  const path = await file("empty.toml", content);
  expect(await linesOfFile(path)).toEqual([
    `${path}: error: is empty (expected at least [frontends.<name>] and [backends.<name>]; see samples/minimal.toml)`,
  ]);
});

test("a file of comments is told", async () => {
  const path = await file("comments.toml", "# one\n# two\n");
  expect(await linesOfFile(path)).toEqual([
    `${path}: error: has nothing but comments (expected at least [frontends.<name>] and [backends.<name>]; see samples/minimal.toml)`,
  ]);
});

test.each([
  ["Latin-1", Buffer.from("mode = 1\n# caf\xe9\n", "latin1"), "2:6", "0xe9"],
  ["a sequence cut short", Buffer.from([0x61, 0xe2, 0x82]), "1:2", "0xe2"],
  [
    "a sequence that goes wrong after sound text",
    Buffer.from([0xc3, 0xa9, 0x0a, 0x41, 0xef, 0xbf, 0x41]),
    "2:2",
    "0xef",
  ],
  ["an encoded surrogate", Buffer.from([0x41, 0xed, 0xa0, 0x80]), "1:2", "0xed"],
  ["a replacement character before the fault", Buffer.from([0xef, 0xbf, 0xbd, 0xff]), "1:2", "0xff"],
])("bytes that are not UTF-8 are told where they begin: %s", async (_, bytes, place, byte) => {
  const path = await file("bytes.toml", bytes);
  expect(await linesOfFile(path)).toEqual([
    `${path}:${place}: error: is not UTF-8 (found byte ${byte}, expected TOML, which is always UTF-8)`,
  ]);
});

test("UTF-16 is told as such", async () => {
  const path = await file(
    "utf16.toml",
    Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from(LEAST, "utf16le")]),
  );
  expect(await linesOfFile(path)).toEqual([
    `${path}: error: is UTF-16, not UTF-8 (expected TOML, which is always UTF-8)`,
  ]);
});

test("a file beyond any sensible size is refused, one at the limit is read", async () => {
  const large = await file("large.toml", `${LEAST}#${"x".repeat(MAX_FILE_BYTES - LEAST.length)}`);
  expect(await linesOfFile(large)).toEqual([
    `${large}: error: is larger than 16 MiB, the most a configuration may have`,
  ]);
  const whole = await file("whole.toml", `${LEAST}#${"x".repeat(MAX_FILE_BYTES - LEAST.length - 1)}`);
  expect(await linesOfFile(whole)).toEqual([]);
});

test("an endless device is refused after the limit", async () => {
  expect(await linesOfFile("/dev/zero")).toEqual([
    "/dev/zero: error: is larger than 16 MiB, the most a configuration may have",
  ]);
});

test.each([
  [0o664, "its group"],
  [0o666, "every user"],
  [0o646, "every user"],
])("a file of mode %o is a warning", async (mode, who) => {
  const path = await file("shared.toml", LEAST);
  await chmod(path, mode);
  expect(await linesOfFile(path)).toEqual([
    `${path}: warning: ${who} can write this file, and so steer the traffic; chmod go-w would stop that (found mode 0${mode.toString(8)})`,
  ]);
});

test("who can write a file is told beside its errors too", async () => {
  const path = await file("both.toml", `zzz = 1\n${LEAST}`);
  await chmod(path, 0o666);
  expect((await linesOfFile(path)).map((line) => line.slice(path.length).split(" (")[0])).toEqual([
    ":1:1: error: zzz: unknown key",
    ": warning: every user can write this file, and so steer the traffic; chmod go-w would stop that",
  ]);
});

test.each([
  ["mode = ", 1, 8],
  ["[a]\nb = 1\nb = 2\n", 3, 1],
  ["a = 1\r\nb = [1,\r\n", 3, 1],
  ["\ufeffa = 1 2", 1, 7],
  ["a = 99999999999999999999", 1, 5],
])("broken TOML is told where it breaks (%j)", async (text, line, column) => {
  const result = await loadConfigText(text, { file: "t.toml" });
  expect(result).toMatchObject({
    ok: false,
    problems: [{ severity: "error", path: "", file: "t.toml", line, column }],
  });
  expect(lines(result)[0]).toMatch(/^t\.toml:\d+:\d+: error: not valid TOML: \S/);
});

test("tables nested beyond reason are told, not a stack overflow", async () => {
  for (const text of [
    `a = ${"[".repeat(100_000)}`,
    `a = ${"{a=".repeat(100_000)}`,
    `${"a.".repeat(50_000)}a = 1`,
  ]) {
    const result = await loadConfigText(text);
    expect(result.ok).toBe(false);
    expect(lines(result).length).toBeLessThan(5);
  }
});

test("1,000 servers load in well under 150 ms when there is nothing to tell", async () => {
  const servers = Array.from(
    { length: 1000 },
    (_, i) =>
      `[backends.pool.servers.s${i}]\n# rack ${i}\naddr = "10.1.${i >> 8}.${i & 255}:80"\n\nweight = ${i + 1}\n\n`,
  );
  const text = `[frontends.web]\nlisten_addr = ":80"\nbackend = "pool"\n${servers.join("")}`;
  expect(text.split("\n").length).toBeGreaterThan(6000);
  const times: number[] = [];
  for (let round = 0; round < 5; round++) {
    const before = performance.now();
    const result = await loadConfigText(text);
    times.push(performance.now() - before);
    expect(result).toMatchObject({ ok: true, warnings: [] });
  }
  expect(Math.min(...times)).toBeLessThan(150);
});

test("1,000 problems are all told, in bounded time", async () => {
  const servers = Array.from({ length: 1000 }, (_, i) => `[backends.pool.servers.s${i}]\nadr = ":80"\n`);
  const result = await loadConfigText(
    `[frontends.web]\nlisten_addr = ":80"\nbackend = "pool"\n${servers.join("")}`,
  );
  expect(lines(result)).toHaveLength(1000);
});
