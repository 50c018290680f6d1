import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command, CommanderError } from "commander";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { configCommand } from "../../../ts/cli/config.ts";
import { schemaCommand } from "../../../ts/cli/schema.ts";
import { validateCommand } from "../../../ts/cli/validate.ts";
import { configTable } from "../../../ts/config/reference.ts";
import { sampleFile } from "../../support/samples.ts";
import { LEAST } from "./support.ts";

let folder: string;
let out: string;
let err: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "convey-commands-"));
  out = "";
  err = "";
  vi.spyOn(process.stdout, "write").mockImplementation((text) => {
    out += text;
    return true;
  });
  vi.spyOn(process.stderr, "write").mockImplementation((text) => {
    err += text;
    return true;
  });
});

afterEach(async () => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
  process.exitCode = undefined;
  await rm(folder, { recursive: true });
});

async function file(content: string): Promise<string> {
  const path = join(folder, "c.toml");
  await writeFile(path, content);
  await chmod(path, 0o644);
  return path;
}

async function convey(...args: string[]): Promise<typeof process.exitCode> {
  const program = new Command("convey");
  validateCommand(program);
  configCommand(program);
  schemaCommand(program);
  for (const command of program.commands) command.exitOverride();
  await program.parseAsync(["node", "convey", ...args]);
  return process.exitCode;
}

test("validate says what a sound file is, and exits 0", async () => {
  const path = await file(LEAST);
  expect((await convey("validate", path)) ?? 0).toBe(0);
  expect(out).toBe(`${path}: valid: proxy mode, 1 frontend, 1 backend, 1 server\n`);
  expect(err).toBe("");
});

test("validate takes the file from --config too", async () => {
  const path = await file(LEAST);
  expect((await convey("validate", `--config=${path}`)) ?? 0).toBe(0);
  expect(out).toContain(": valid:");
});

test("validate tells problems on standard error and exits 1", async () => {
  const path = await file(`zzz = 1\n${LEAST}weight = 70000\n`);
  expect(await convey("validate", path)).toBe(1);
  expect(out).toBe("");
  expect(err).toBe(
    `${path}:1:1: error: zzz: unknown key\n` +
      `${path}:7:10: error: backends.pool.servers.s1.weight: is out of range (found 70000, expected an integer from 0 to 65535)\n`,
  );
});

test("validate with warnings alone tells them and exits 0", async () => {
  const path = await file(`${LEAST}weight = 0\n`);
  expect((await convey("validate", path)) ?? 0).toBe(0);
  expect(err).toContain(`${path}:4:16: warning: backends.pool.servers: every server has weight 0`);
  expect(out).toContain(": valid:");
});

test("validate --json prints the problems as data", async () => {
  const path = await file(`mod = "dsr"\n${LEAST}`);
  expect(await convey("validate", "--json", path)).toBe(1);
  expect(JSON.parse(out)).toEqual({
    ok: false,
    file: path,
    problems: [
      {
        severity: "error",
        path: "mod",
        message: "unknown key",
        suggestion: "mode",
        file: path,
        line: 1,
        column: 1,
      },
    ],
  });
  expect(err).toBe("");
});

test("validate --json of a sound file says so", async () => {
  const path = await file(LEAST);
  expect((await convey("validate", "--json", path)) ?? 0).toBe(0);
  expect(JSON.parse(out)).toEqual({ ok: true, file: path, problems: [] });
});

test("validate judges with the environment and the flags that run would use", async () => {
  const path = await file(LEAST);
  vi.stubEnv("CONVEY_LOG_LEVEL", "loud");
  expect(await convey("validate", path, "--mode=dsr")).toBe(1);
  expect(err).toContain("CONVEY_LOG_LEVEL: error: log.level: is not a value it can have");
  expect(err).toContain("error: backends.pool.servers.s1.addr: has another port than frontend");
});

test("two different files are a usage error", async () => {
  await expect(convey("validate", "a.toml", "--config=b.toml")).rejects.toThrow(CommanderError);
  expect(err).toContain('"a.toml" and --config="b.toml" were both given; name one file');
});

test("config prints TOML with defaults, environment and flags applied", async () => {
  vi.stubEnv("CONVEY_STATS_PORT", "7001");
  expect((await convey("config", await file(LEAST), "--log-level=warn")) ?? 0).toBe(0);
  expect(out).toContain('[stats]\nport = 7001\nbind = "127.0.0.1"\n');
  expect(out).toContain('[log]\nlevel = "warn"\n');
  expect(out).toContain("health_check_interval = 5\n");
});

test("config --json prints the same as JSON", async () => {
  expect((await convey("config", "--json", sampleFile("proxy"))) ?? 0).toBe(0);
  expect(JSON.parse(out)).toMatchObject({ mode: "proxy", stats: { port: 7000, bind: "127.0.0.1" } });
});

test("config of a broken file tells its problems and exits 1", async () => {
  expect(await convey("config", await file("mode = "))).toBe(1);
  expect(out).toBe("");
  expect(err).toContain("c.toml:1:8: error: not valid TOML: ");
});

test("schema prints the JSON Schema, or the reference as Markdown", async () => {
  await convey("schema");
  expect(JSON.parse(out)).toMatchObject({ title: "Convey configuration" });
  out = "";
  await convey("schema", "--markdown");
  expect(out).toBe(`${configTable()}\n`);
});
