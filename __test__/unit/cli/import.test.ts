import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { importCommand } from "../../../ts/cli/import.ts";
import { schemaAt } from "../../../ts/config/shape.ts";

let home: string;
let out: string;
let err: string;

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "convey-import-"));
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

afterEach(() => {
  vi.restoreAllMocks();
  process.exitCode = undefined;
  rmSync(home, { recursive: true });
});

async function run(content: string | Buffer, ...args: string[]): Promise<typeof process.exitCode> {
  const file = join(home, "file");
  writeFileSync(file, content);
  const program = new Command("convey");
  importCommand(program);
  await program.parseAsync(["node", "convey", "import", file, ...args]);
  return process.exitCode;
}

const SOUND = "global\nnbthread 2\n";

test("what is not taken over is told with its line on standard error, and the exit code is 1", async () => {
  expect(await run(`${SOUND}florp 1\n`)).toBe(1);
  expect(err).toContain("line 3: `florp 1`: not taken over: there is nothing like it here\n");
});

test.skipIf(schemaAt(["backends", "a", "health_check"]) === undefined)(
  "a file of which everything was taken over is TOML on standard output alone, and the exit code is 0",
  async () => {
    expect(await run("listen a\nbind 127.0.0.1:80\nserver s 10.0.0.1:80 check\ntimeout server 1m\n")).toBe(0);
    expect(err).toBe("");
    expect(out).toContain('listen_addr = "127.0.0.1:80" # line 2');
  },
);

test("--json has the TOML and the problems", async () => {
  expect(await run(`${SOUND}florp 1\n`, "--json")).toBe(1);
  const { toml, problems } = JSON.parse(out);
  expect(typeof toml).toBe("string");
  expect(problems).toContainEqual({
    line: 3,
    text: "florp 1",
    message: "not taken over: there is nothing like it here",
  });
});

test.each([
  ["neither of the two", "hello", /looks like a file of neither HAProxy nor nginx; say which with --from/],
  ["not UTF-8", Buffer.from([0xff, 0xfe]), /is not UTF-8/],
  ["too large", "a".repeat(1024 * 1024 + 1), /is larger than 1 MiB/],
])("a file that is %s is refused with words", async (_name, content, message) => {
  await expect(run(content)).rejects.toThrow(message);
});

test("--from says whose file it is", async () => {
  await run("hello\n", "--from=haproxy");
  expect(err).toContain("line 1: `hello`: not taken over: it stands in no section");
});
