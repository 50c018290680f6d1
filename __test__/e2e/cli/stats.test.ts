import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { Client, echoServer } from "../../support/control.ts";
import { finish, start, until } from "../../support/processes.ts";
import { picture } from "../../support/terminal.ts";
import { configuration, convey, folder, ROOT, ready } from "./convey.ts";

/** A balancer of one server with some traffic, and what `convey stats` says of it. */
async function running(extra = "") {
  const directory = await folder();
  const server = await echoServer("one");
  const file = await configuration(directory.path, server.port, extra);
  const env = { ...process.env, CONVEY_STATE_DIR: directory.path };
  const one = await ready(file, []).catch(async (error) => {
    await directory[Symbol.asyncDispose]();
    throw error;
  });
  return {
    ...one,
    file,
    env,
    server,
    stats: (...args: string[]) => convey(["stats", "-c", file, ...args]),
    [Symbol.asyncDispose]: async () => {
      await one.running.stop();
      await server.close();
      await directory[Symbol.asyncDispose]();
    },
  };
}

/** Runs it on a terminal of a size; what it shows is in `stdout`. */
function onTerminal(file: string, columns: number, rows: number, ...args: string[]) {
  const command = ["stty", "cols", String(columns), "rows", String(rows)].join(" ");
  const stats = [process.execPath, join(ROOT, "dist/cli/main.js"), "stats", "-c", file, ...args]
    .map((word) => `'${word}'`)
    .join(" ");
  const script = `${command}; before=$(stty -g); ${stats}; echo "ended with $?"; [ "$before" = "$(stty -g)" ] && echo "as it was"`;
  return start(["script", "-qec", script, "/dev/null"], { stdin: true });
}

const ESC = "\u001b";
// Side by side: most of the time they wait for the next picture, of which there is one a second.
describe.concurrent("stats", () => {
  test("prints frontends and servers in aligned columns, without a [stats] table in the file", async () => {
    await using it = await running();
    const client = await Client.open({ host: "127.0.0.1", port: it.port });
    await until(async () => / 1 +0 B|pool\/s1 .* 1 /.test((await it.stats()).stdout), "the connection");
    const { code, stdout, stderr } = await it.stats();
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(/^Convey \S+, proxy, up 00:00:\d\d, configuration 1\n1 of 1 servers up, 1 open, /);
    expect(stdout).toMatch(/^FRONTEND +LISTENS ON +BACKEND +OPEN +TOTAL +TO SERVERS +TO CLIENTS$/m);
    expect(stdout).toMatch(/^web +127\.0\.0\.1:\d+ +pool +1 +1 +/m);
    expect(stdout).toMatch(/^pool\/s1 +127\.0\.0\.1:\d+ +up +1 +1 +1 .* connected, [\d.]+ ms$/m);
    expect(stdout).not.toContain("\u001b");
    client.close();
  });

  test("--rate tells what happens in a second, and --json what /stats answers", async () => {
    await using it = await running();
    const rate = it.stats("--rate");
    const clients = [];
    for (let i = 0; i < 10; i++) {
      clients.push(await Client.open({ host: "127.0.0.1", port: it.port }));
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect((await rate).stdout).toMatch(/^SERVER +ADDRESS +STATE +WEIGHT +OPEN +CONN\/S +TO SERVER\/S/m);
    expect((await rate).stdout).toMatch(/^per second: [\d.]+ connections, /m);
    const json = JSON.parse((await it.stats("--json")).stdout) as {
      backends: object;
      total_connections: number;
    };
    expect(json).toMatchObject({ mode: "proxy", total_connections: 10, config_version: 1 });
    expect((await it.stats("--json", "--watch")).code).toBe(2);
    for (const client of clients) client.close();
  });

  test("says which ways were tried where nobody answers", async () => {
    await using directory = await folder();
    const file = await configuration(directory.path, 9);
    // A folder of its own: an ordinary user may not look into one that root has.
    const env = { ...process.env, CONVEY_STATE_DIR: directory.path };
    const { code, stdout, stderr } = await convey(["stats", "-c", file], { env });
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(/cannot ask the running convey: no socket/);
  });

  for (const [columns, rows] of [
    [80, 24],
    [40, 10],
    [200, 50],
  ] as const) {
    test(`--watch fits a terminal of ${columns}×${rows}, is renewed in place, and q leaves it as it was`, async () => {
      const many = Array.from(
        { length: 60 },
        (_, i) => `[backends.pool.servers.a-long-name-of-a-server-${i}]\naddr = "127.0.0.1:9"`,
      );
      await using it = await running(many.join("\n"));
      const terminal = onTerminal(it.file, columns, rows, "--watch");
      const seen = () => picture(terminal.stdout);
      await until(
        () => seen().some((line) => line.includes("DOWN")),
        "a failing server",
        15_000,
        () => terminal.stdout,
      );
      const client = await Client.open({ host: "127.0.0.1", port: it.port });
      await until(
        () => seen().some((line) => /\b1 open\b/.test(line)),
        "the connection",
        15_000,
        () => terminal.stdout,
      );
      expect(seen().length).toBeLessThanOrEqual(rows);
      for (const line of seen()) expect(line.length, line).toBeLessThanOrEqual(columns);
      expect(seen().join("\n")).toMatch(/servers 1 to \d+ of 61/);
      terminal.child.stdin?.write("\u001b[6~");
      await until(() => /servers (?!1 )\d+ to \d+ of 61/.test(seen().join("\n")), "the next page", 15_000);
      terminal.child.stdin?.write("q");
      await terminal.waitFor(/ended with 0/);
      await terminal.waitFor(/as it was/);
      expect(terminal.stdout).toContain(`${ESC}[?25h${ESC}[?1049l`);
      client.close();
      await terminal.stop();
    });
  }

  test("--watch says so while nobody answers and goes on when somebody does; Ctrl-C ends it", async () => {
    await using it = await running();
    const terminal = onTerminal(it.file, 100, 24, "--watch");
    const seen = () => picture(terminal.stdout).join("\n");
    await until(
      () => seen().includes("q quits"),
      "a picture",
      15_000,
      () => terminal.stdout,
    );
    await it.running.stop();
    await until(() => seen().includes("no answer, asking again"), "the trouble", 15_000, seen);
    const again = await ready(it.file);
    await until(() => !seen().includes("no answer"), "a picture again", 15_000, seen);
    terminal.child.stdin?.write("\u0003");
    await terminal.waitFor(/ended with 0/);
    await terminal.waitFor(/as it was/);
    await again.running.stop();
    await terminal.stop();
  });

  test("--watch into a pipe is plain text, a picture a second", async () => {
    await using it = await running();
    const piped = start([
      process.execPath,
      join(ROOT, "dist/cli/main.js"),
      "stats",
      "-c",
      it.file,
      "--watch",
    ]);
    await until(() => piped.stdout.split(/^Convey /m).length > 3, "three pictures", 15_000);
    expect(piped.stdout).not.toContain("\u001b");
    await piped.stop("SIGINT");
  });

  test("--watch ends with its reader", async () => {
    await using it = await running();
    const command = `'${process.execPath}' '${join(ROOT, "dist/cli/main.js")}' stats -c '${it.file}' --watch | head -1`;
    const { code, stdout } = await finish(["bash", "-o", "pipefail", "-c", command], { timeoutMs: 20_000 });
    expect([code, stdout.split("\n").length]).toEqual([0, 2]);
  });
});
