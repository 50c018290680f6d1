/** The systemd unit of the samples, run by systemd itself in namespaces of its own. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { family, finish, type Running, start, until } from "../support/processes.ts";
import { needs } from "../support/requirements.ts";

const ROOT = join(import.meta.dirname, "../..");
const MAIN = join(ROOT, "dist/cli/main.js");
const PORT = 18_999;
/** How long a step may take of which it is certain that it comes, where the machine has much else to do. */
const PATIENCE_MS = 90_000;

/** Process 1 of the namespaces, once it has made them. */
const processOne = (booting: Running): number => family(booting.pid)[1] ?? -1;

test("systemd starts the unit as its own user, sees it ready, reloads it, restarts it when it hangs, stops it", async (context) => {
  needs(context, { root: true, tools: ["systemctl", "systemd"] });
  const readable = await finish([
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "test",
    "-r",
    MAIN,
  ]);
  if (readable.code !== 0) context.skip("this checkout can be read by its owner alone");
  const home = mkdtempSync(join(tmpdir(), "convey-systemd-"));
  chmodSync(home, 0o755);
  const configuration = join(home, "convey.toml");
  writeFileSync(
    configuration,
    `[frontends.web]\nlisten_addr = "127.0.0.1:${PORT}"\nbackend = "app"\n[backends.app.servers]\none = { addr = "127.0.0.1:9" }\n`,
  );
  await using booting = start([
    ...["unshare", "--pid", "--kill-child=KILL", "--fork", "--mount", "--mount-proc"],
    ...["--cgroup", "--uts", "--ipc", "--net"],
    ...["sh", join(ROOT, "__test__/support/boot-systemd.sh"), join(ROOT, "samples/systemd"), configuration],
    ...[process.execPath, MAIN],
  ]);
  const inside = (...command: string[]) =>
    finish(["nsenter", "-t", String(processOne(booting)), "-m", "-p", "-n", ...command], {
      timeoutMs: PATIENCE_MS,
    });
  const show = async (): Promise<Record<string, string>> => {
    const properties = "ActiveState,StatusText,MainPID,NRestarts,Result";
    const { stdout } = await inside("systemctl", "show", "convey.service", `-p${properties}`);
    return Object.fromEntries(
      stdout
        .trim()
        .split("\n")
        .map((line) => line.split(/=(.*)/s).slice(0, 2)),
    );
  };
  const log = async () => (await inside("cat", "/run/conf/log")).stdout;
  const active = () =>
    until(
      async () => {
        const now = await show();
        return now.ActiveState === "active" && now;
      },
      "an active unit",
      PATIENCE_MS,
    );

  await until(() => processOne(booting) > 0 || !booting.running, "process 1", PATIENCE_MS);
  const answers = await until(
    async () => (await inside("systemctl", "is-system-running")).stdout !== "" || !booting.running,
    "systemd",
    PATIENCE_MS,
  ).catch(() => false);
  if (!answers || !booting.running)
    context.skip(`systemd cannot be booted in namespaces here: ${booting.stderr}`);
  try {
    const first = await active();
    expect(first.StatusText).toMatch(/^proxy mode, [01] of 1 servers up$/);
    expect((await inside("stat", "-c", "%U %a", "/run/convey")).stdout).toBe("nobody 700\n");
    expect((await inside("stat", "-c", "%U", "/run/conveybpf")).stdout).toBe("nobody\n");

    expect((await inside("systemctl", "reload", "convey.service")).code).toBe(0);
    await until(async () => /reload: nothing has changed/.test(await log()), "the reload", PATIENCE_MS);

    // A control plane that hangs gives no sign of life: after WatchdogSec it is started anew.
    await inside("sh", "-c", `kill -STOP ${first.MainPID}`);
    await until(async () => (await show()).NRestarts === "1", "the watchdog's restart", PATIENCE_MS);
    await active();

    expect((await inside("systemctl", "stop", "convey.service")).code).toBe(0);
    const last = await show();
    expect([last.ActiveState, last.Result]).toEqual(["inactive", "success"]);
    expect(await log()).toMatch(/"stopped"/);
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
}, 600_000);
