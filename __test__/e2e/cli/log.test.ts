/** The log when what takes it is full, slow or gone. */
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { CONVEY } from "../../support/peers.ts";
import { start, until } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import { echo, freePort, listening } from "../../support/sockets.ts";
import { onTerminal } from "../../support/terminal.ts";
import { configuration, exchange, folder, minimal } from "./convey.ts";

test("a log on a full disk goes on once there is room: lines that waited come whole, and traffic never stopped", async (context) => {
  needs(context, { root: true, tools: ["unshare"] });
  await using server = await listening(echo);
  await using directory = await folder();
  const port = await freePort();
  const file = join(directory.path, "config.toml");
  writeFileSync(file, minimal(server.port, "", port), { mode: 0o600 });
  const disk = join(directory.path, "disk");
  const script = `mkdir "$2" && mount -t tmpfs -o size=64k none "$2" && exec "$0" "$1" -c "$3" 2> "$2/log"`;
  await using running = start(["unshare", "-m", "bash", "-c", script, process.execPath, CONVEY, disk, file]);
  const seen = (name: string) => `/proc/${running.pid}/root${disk}/${name}`;
  const log = () => (existsSync(seen("log")) ? readFileSync(seen("log"), "utf8") : "");
  await until(() => /is ready/.test(log()), "the ready line", 20_000, log);
  // Fill it to the last byte.
  for (const size of [4096, 1]) {
    try {
      for (;;) writeFileSync(seen("filler"), Buffer.alloc(size), { flag: "a" });
    } catch (error) {
      expect((error as NodeJS.ErrnoException).code).toBe("ENOSPC");
    }
  }
  // Its last page has room left for some lines; afterwards nothing fits.
  const reload = async () => {
    running.child.kill("SIGHUP");
    expect(await exchange(port, "through")).toBe("through");
  };
  let length = -1;
  for (let still = 0; still < 10; ) {
    await reload();
    still = log().length === length ? still + 1 : 0;
    length = log().length;
  }
  rmSync(seen("filler"));
  await until(() => log().length > length, "more of the log");
  running.child.kill("SIGTERM");
  await until(() => /"msg":"stopped"/.test(log()) || !running.running, "the last line");
  const text = log();
  expect(await running.exited).toEqual({ code: 0, signal: null });
  for (const line of text.split("\n").slice(0, -1)) expect(JSON.parse(line)).toHaveProperty("msg");
});

test("a closed terminal ends it with exit code 0, as SIGTERM does, though SIGHUP alone reloads", async (context) => {
  needs(context, { tools: ["python3"] });
  await using server = await listening(echo);
  await using directory = await folder();
  const file = await configuration(directory.path, server.port);
  await using terminal = onTerminal([process.execPath, CONVEY, "-c", file], {
    env: { ...process.env, NO_COLOR: "1" },
  });
  await terminal.waitFor(/^\[\d\d:\d\d:\d\d\.\d{3}\] INFO: convey .* is ready/m, 20_000);
  const [, pid] = await terminal.waitFor(/^pid (\d+)/m);
  process.kill(Number(pid), "SIGHUP");
  await terminal.waitFor(/INFO: reload: nothing has changed/);
  terminal.child.stdin?.end();
  await terminal.waitFor(/^ended with -?\d+$/m, 10_000);
  expect(terminal.stdout).toMatch(/^ended with 0$/m);
});
