import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { finish } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";

const SAMPLES = join(import.meta.dirname, "../../../samples/systemd");
/** The exposure that `systemd-analyze security` may find at most; 10 is a service without any hardening. */
const MOST_EXPOSURE = 2.8;

let home: string;
const service = () => readFileSync(join(SAMPLES, "convey.service"), "utf8");

beforeAll(() => {
  home = mkdtempSync(join(tmpdir(), "convey-units-"));
});

afterAll(() => rmSync(home, { recursive: true, force: true }));

test("systemd finds nothing wrong with the units", async (context) => {
  needs(context, { tools: ["systemd-analyze"] });
  // Where Convey is not installed there is no such program.
  writeFileSync(join(home, "convey.service"), service().replaceAll("/usr/bin/convey", "/bin/true"));
  for (const unit of ["convey.socket", "run-conveybpf.mount"])
    copyFileSync(join(SAMPLES, unit), join(home, unit));
  const units = ["convey.service", "convey.socket", "run-conveybpf.mount"].map((unit) => join(home, unit));
  const done = await finish(["systemd-analyze", "verify", "--man=no", ...units]);
  expect([done.code, done.stderr]).toEqual([0, ""]);
});

test("the service is exposed no more than it has to be", async (context) => {
  needs(context, { tools: ["systemd-analyze"] });
  const done = await finish([
    "systemd-analyze",
    "security",
    "--offline=true",
    join(SAMPLES, "convey.service"),
  ]);
  const exposure = Number(/Overall exposure level for convey.service: (\d+\.\d)/.exec(done.stdout)?.[1]);
  expect(exposure, done.stdout + done.stderr).toBeLessThanOrEqual(MOST_EXPOSURE);
});

test("the service notifies, reloads by signal, and outwaits a drain of the default length", () => {
  const setting = (name: string) => new RegExp(`^${name}=(.*)$`, "m").exec(service())?.[1];
  expect(setting("Type")).toBe("notify");
  expect(setting("ExecReload")).toBe("/bin/kill -HUP $MAINPID");
  expect(Number(setting("WatchdogSec"))).toBeGreaterThan(0);
  expect(Number(setting("TimeoutStopSec"))).toBeGreaterThan(30);
  expect(setting("MemoryDenyWriteExecute")).toBeUndefined();
  const capabilities = setting("AmbientCapabilities")?.split(" ") ?? [];
  for (const name of ["NET_ADMIN", "NET_RAW", "BPF", "PERFMON", "SYS_RESOURCE"]) {
    expect(capabilities).toContain(`CAP_${name}`);
  }
});
