/** The start of `run`: signals that come before it serves, and configurations that are no regular files. */
import { execFileSync } from "node:child_process";
import { closeSync, constants, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { CONVEY } from "../../support/peers.ts";
import { type Running, start, until } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import { configuration, convey, echoServer, folder, freePort, minimal, serving } from "./convey.ts";

/** Waits until the process catches SIGHUP, the last one it does; what comes before is Node's own start. */
async function catchesSignals(running: Running): Promise<void> {
  await until(
    () => {
      const caught = /^SigCgt:\s+([0-9a-f]+)$/m.exec(
        readFileSync(`/proc/${running.pid}/status`, "utf8"),
      )?.[1];
      return caught !== undefined && (BigInt(`0x${caught}`) & 1n) !== 0n;
    },
    "signal handlers",
    10_000,
  );
}

async function canListen(port: number): Promise<boolean> {
  const server = createServer();
  const listening = await new Promise<boolean>((resolve) => {
    server.once("error", () => resolve(false)).listen(port, "127.0.0.1", () => resolve(true));
  });
  await new Promise((resolve) => server.close(resolve));
  return listening;
}

function fifo(directory: string): string {
  const path = join(directory, "config.fifo");
  execFileSync("mkfifo", [path]);
  return path;
}

describe("signals during the start", () => {
  test.each([
    ["SIGTERM", 0],
    ["SIGTERM", 30],
    ["SIGINT", 60],
    ["SIGTERM", 100],
    ["SIGTERM", 150],
    ["SIGINT", 200],
    ["SIGTERM", 300],
  ] as const)(
    "%s %d ms after signals are caught ends it with exit code 0 and leaves nothing",
    async (signal, ms) => {
      await using directory = await folder();
      const port = await freePort();
      const file = join(directory.path, "config.toml");
      writeFileSync(file, minimal(9, "", port), { mode: 0o600 });
      await using running = serving(["-c", file]);
      await catchesSignals(running);
      await sleep(ms);
      running.child.kill(signal);
      expect(await running.exited).toEqual({ code: 0, signal: null });
      expect(await canListen(port)).toBe(true);
    },
  );

  test.each([0, 60, 150])("SIGHUP %d ms after signals are caught reloads once it serves", async (ms) => {
    await using server = await echoServer();
    await using directory = await folder();
    await using running = serving(["-c", await configuration(directory.path, server.port)]);
    await catchesSignals(running);
    await sleep(ms);
    running.child.kill("SIGHUP");
    await running.waitFor(/SIGHUP: reading the configuration again/);
    await running.waitFor(/"msg":"reload: /);
    expect(running.stderr).toMatch(/is ready/);
    expect(await running.stop()).toEqual({ code: 0, signal: null });
  });

  test("while a pipe gives no configuration SIGHUP is kept for later and SIGTERM ends it with exit code 0", async () => {
    await using directory = await folder();
    await using running = serving(["-c", fifo(directory.path)]);
    await catchesSignals(running);
    running.child.kill("SIGHUP");
    await running.waitFor(/still reading .*config\.fifo, which does not end/);
    running.child.kill("SIGTERM");
    expect(await running.exited).toEqual({ code: 0, signal: null });
  });

  test("while a file system hangs SIGTERM ends it", async (context) => {
    needs(context, { root: true, tools: ["unshare", "python3"] });
    await using directory = await folder();
    const script = join(directory.path, "hang.py");
    writeFileSync(script, HANG);
    // The mount goes with the namespace, the namespace with its last process.
    await using running = start(
      [
        "unshare",
        "-m",
        "bash",
        "-c",
        `python3 '${script}' "$PWD" "$0" "$1" -c "$PWD/config.toml"`,
        process.execPath,
        CONVEY,
      ],
      { cwd: directory.path },
    );
    await running.waitFor(/ended with -?\d+/, 20_000);
    expect(running.stdout).toContain("ended with 0");
  });

  test("while a file system hangs validate gives up by itself", async (context) => {
    needs(context, { root: true, tools: ["unshare", "python3"] });
    await using directory = await folder();
    const script = join(directory.path, "hang.py");
    writeFileSync(script, HANG.replace("time.sleep(4)\nchild.send_signal(signal.SIGTERM)\n", ""));
    await using running = start(
      [
        "unshare",
        "-m",
        "bash",
        "-c",
        `python3 '${script}' "$PWD" "$0" "$1" validate "$PWD/config.toml"`,
        process.execPath,
        CONVEY,
      ],
      { cwd: directory.path },
    );
    await running.waitFor(/ended with -?\d+/, 30_000);
    expect(running.stdout).toContain("ended with 1");
    expect(running.stderr).toContain("within 10 s");
  });
});

/** Mounts a file system that answers nothing, runs a command in sight of it, ends the command by SIGTERM. */
const HANG = `
import ctypes, os, signal, subprocess, sys, time
device = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"hung", sys.argv[1].encode(), b"fuse", 0, options):
    sys.exit(os.strerror(ctypes.get_errno()))
child = subprocess.Popen(sys.argv[2:])
time.sleep(4)
child.send_signal(signal.SIGTERM)
print("ended with", child.wait(), flush=True)
`;

describe("a configuration that is no regular file", () => {
  test("a pipe is read once, not watched, and a reload that finds it empty is refused", async () => {
    await using server = await echoServer();
    await using directory = await folder();
    const file = await configuration(directory.path, server.port);
    await using running = start([
      "bash",
      "-c",
      `exec "$0" "$1" -c <(cat "$2")`,
      process.execPath,
      CONVEY,
      file,
    ]);
    await running.waitFor(/is ready/);
    expect(running.stderr).toMatch(/\/dev\/fd\/\d+ is no regular file and is not watched/);
    running.child.kill("SIGHUP");
    await running.waitFor(/reload rejected.*is empty/);
    await sleep(500);
    expect(running.stderr.match(/reload rejected/g)).toHaveLength(1);
    expect(await running.stop()).toEqual({ code: 0, signal: null });
  });

  test("a named pipe may get its writer later", async () => {
    await using server = await echoServer();
    await using directory = await folder();
    const path = fifo(directory.path);
    await using running = serving(["-c", path]);
    await catchesSignals(running);
    writeFileSync(path, minimal(server.port));
    await running.waitFor(/is ready/);
    expect(await running.stop()).toEqual({ code: 0, signal: null });
  });

  test("a reload from a pipe that gives nothing is refused after ten seconds, and a second SIGTERM does not wait", async () => {
    await using server = await echoServer();
    await using directory = await folder();
    const path = fifo(directory.path);
    await using running = serving(["-c", path]);
    await catchesSignals(running);
    writeFileSync(path, minimal(server.port));
    await running.waitFor(/is ready/);
    running.child.kill("SIGHUP");
    await running.waitFor(/reload rejected.*it gave nothing to read, or no end, within 10 s/, 20_000);
    running.child.kill("SIGHUP");
    await running.waitFor(/(SIGHUP: reading[\s\S]*){2}/);
    running.child.kill("SIGTERM");
    await running.waitFor(/SIGTERM: no new connections/);
    const begun = performance.now();
    running.child.kill("SIGTERM");
    expect(await running.exited).toEqual({ code: 0, signal: null });
    expect(performance.now() - begun).toBeLessThan(6000);
  });

  test("standard input is a file like any other", async () => {
    await using server = await echoServer();
    await using running = start([
      "bash",
      "-c",
      `printf '%s' "$2" | exec "$0" "$1" -c /dev/stdin`,
      process.execPath,
      CONVEY,
      minimal(server.port),
    ]);
    await running.waitFor(/is ready/);
    expect(running.stderr).toContain("/dev/stdin is no regular file");
  });

  test("a pipe whose writer keeps it open is too much to wait for at validate", async () => {
    await using directory = await folder();
    const path = fifo(directory.path);
    const writer = openSync(path, constants.O_RDWR);
    writeSync(writer, minimal(80));
    const { code, stderr } = await convey(["validate", path]);
    closeSync(writer);
    expect(code).toBe(1);
    expect(stderr).toContain("it gave nothing to read, or no end, within 10 s");
  });
});
