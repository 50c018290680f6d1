/** The library's reference is made from the comments in the code. */
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const ROOT = join(import.meta.dirname, "../../..");

test("everything that the library exports is in its reference, without a warning", async () => {
  const typedoc = join(ROOT, "node_modules/typedoc/bin/typedoc");
  const made = promisify(execFile)(process.execPath, [typedoc, "--emit", "none", "--skipErrorChecking"], {
    cwd: ROOT,
  });
  const said = await made.catch(({ stdout, stderr }: { stdout: string; stderr: string }) => ({
    stdout,
    stderr,
  }));
  expect(`${said.stdout}${said.stderr}`).not.toMatch(/warning|error/i);
}, 120_000);
