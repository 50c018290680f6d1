import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, constants, openSync, writeSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { until } from "../../support/processes.ts";
import { echo, freePort, listening } from "../../support/sockets.ts";
import { configuration, convey, exchange, folder, minimal, ROOT, ready, serving } from "./convey.ts";

describe("start-up", () => {
  test("bytes go to the server and back, and every frontend has its ready line in the log", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const { running, port } = await ready(await configuration(directory.path, server.port));
    await using _ = running;
    expect(await exchange(port, "hello")).toBe("hello");
    expect(JSON.parse(line(running.stderr, "listens on"))).toMatchObject({
      level: "info",
      frontend: "web",
      backend: "pool",
      address: `127.0.0.1:${port}`,
    });
    expect(running.stdout).toBe("");
  });

  test("the default file is ./config.toml", async () => {
    await using directory = await folder();
    const missing = await convey([], { cwd: directory.path });
    expect(missing.stderr).toContain("./config.toml: error: no such file");
    expect(missing.code).toBe(1);
  });

  test("every problem of the file is told at once, with its place, and the exit code is 1", async () => {
    await using directory = await folder();
    const file = join(directory.path, "broken.toml");
    await writeFile(
      file,
      '[frontends.web]\nlisten_addr = "nonsense"\nbackend = "pol"\n[backends.pool]\nretrys = 1\n',
    );
    const { code, stdout, stderr } = await convey(["-c", file]);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toContain(`${file}:2:15: error: frontends.web.listen_addr`);
    expect(stderr).toContain(`${file}:3:11: error: frontends.web.backend`);
    expect(stderr).toMatch(/broken\.toml:5:1: error: backends\.pool\.retrys.*did you mean "retries"/);
  });

  test("an address that is taken: exit code 1, the cause and the remedy, nothing left", async () => {
    await using holder = await listening(echo);
    await using directory = await folder();
    const file = join(directory.path, "config.toml");
    await writeFile(file, minimal(9, "", holder.port));
    const { code, stderr } = await convey(["-c", file]);
    expect(stderr).toMatch(new RegExp(`127\\.0\\.0\\.1:${holder.port}`));
    expect(stderr).toMatch(/in use/i);
    expect(stderr.trim().split("\n")).toHaveLength(1);
    expect(stderr).toContain("stop it or choose another address or port");
    expect(code).toBe(1);
  });

  test("a taken stats port ends it too, and frees the frontend's port", async () => {
    await using holder = await listening(echo);
    await using directory = await folder();
    const listen = await freePort();
    const file = join(directory.path, "config.toml");
    await writeFile(file, minimal(9, "", listen));
    const { code, stderr } = await convey(["-c", file, `--stats-port=${holder.port}`]);
    expect(stderr).toContain("EADDRINUSE");
    expect(code).toBe(1);
    const again = createServer();
    await new Promise<void>((resolve, reject) =>
      again.once("error", reject).listen(listen, "127.0.0.1", resolve),
    );
    again.close();
  });

  test.each([
    ["-p", "passthrough"],
    ["--passthrough", "passthrough"],
    ["-d", "dsr"],
    ["--mode=dsr", "dsr"],
    ["--mode=proxy", "proxy"],
  ])("%s chooses the mode %s", async (flag, mode) => {
    await using directory = await folder();
    const file = join(directory.path, "config.toml");
    const text = minimal(80, "", 80).replace('listen_addr = "127.0.0.1', 'listen_addr = "192.0.2.1');
    await writeFile(file, text.replace('\naddr = "127.0.0.1', '\naddr = "198.51.100.1'));
    const { code, stdout } = await convey(["config", "--json", "-c", file, flag]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ mode });
  });

  test("flags win over CONVEY_ variables, and those over the file", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const file = await configuration(directory.path, server.port, '[log]\nlevel = "info"');
    await using quiet = serving(["-c", file, "--stats-port=0"], {
      ...process.env,
      CONVEY_LOG_LEVEL: "error",
    });
    await using loud = serving(["-c", file, "--log-level=info"], {
      ...process.env,
      CONVEY_LOG_LEVEL: "error",
    });
    await loud.waitFor(/is ready/);
    expect((await quiet.stop()).code).toBe(0);
    expect(quiet.stderr).toBe("");
  });

  test("on a terminal the log is made for people", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const file = await configuration(directory.path, server.port);
    const command = `'${process.execPath}' '${join(ROOT, "dist/cli/main.js")}' -c '${file}'`;
    const terminal = spawn("script", ["-qec", `timeout -s TERM 3 ${command}`, "/dev/null"], {
      env: noColor(),
    });
    let shown = "";
    terminal.stdout.on("data", (text) => {
      shown += text;
    });
    await once(terminal, "close");
    expect(shown).toMatch(/^\[\d\d:\d\d:\d\d\.\d{3}\] INFO: frontend web listens on 127\.0\.0\.1:\d+/m);
    expect(shown).not.toContain("\u001b[");
  });
});

describe("signals", () => {
  test.each(["SIGTERM", "SIGINT"] as const)(
    "%s: refuses new connections, lets an open one finish, exits 0",
    async (signal) => {
      await using server = await listening(echo);
      await using directory = await folder();
      const { running, port } = await ready(await configuration(directory.path, server.port));
      await using _ = running;
      const client = await open(port);
      expect(await echoed(client, "before")).toBe("before");
      running.child.kill(signal);
      await running.waitFor(/no new connections; 1 open/);
      await until(() => refused(port), "refusal");
      expect(await echoed(client, "after")).toBe("after");
      expect(running.running).toBe(true);
      client.end();
      expect(await running.exited).toEqual({ code: 0, signal: null });
    },
  );

  test("at the drain deadline open connections are cut, and the exit code is 0", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const file = await configuration(directory.path, server.port);
    const { running, port } = await ready(file, ["--drain-timeout-ms=400"]);
    await using _ = running;
    const client = await open(port);
    const cut = new Promise((resolve) => client.once("close", resolve));
    const begun = performance.now();
    running.child.kill("SIGTERM");
    expect(await running.exited).toEqual({ code: 0, signal: null });
    expect(performance.now() - begun).toBeGreaterThan(390);
    await cut;
  });

  test("a second signal cuts open connections at once, and the exit code is 0", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const { running, port } = await ready(await configuration(directory.path, server.port));
    await using _ = running;
    const client = await open(port);
    const cut = new Promise((resolve) => client.once("close", resolve));
    running.child.kill("SIGTERM");
    await running.waitFor(/no new connections/);
    const begun = performance.now();
    running.child.kill("SIGTERM");
    expect(await running.exited).toEqual({ code: 0, signal: null });
    expect(performance.now() - begun).toBeLessThan(2000);
    await cut;
  });

  test("SIGHUP reads the file again; an invalid one is told once and the old one serves", async () => {
    await using first = await listening(echo);
    await using directory = await folder();
    const file = await configuration(directory.path, first.port);
    const { running, port } = await ready(file);
    await using _ = running;
    await writeFile(file, minimal(first.port, "[nonsense]"));
    running.child.kill("SIGHUP");
    await running.waitFor(/reload rejected, the old configuration serves on: .*nonsense/);
    expect(await exchange(port, "still")).toBe("still");
    const other = await freePort();
    await writeFile(
      file,
      `${minimal(first.port)}[frontends.more]\nlisten_addr = "127.0.0.1:${other}"\nbackend = "pool"\n`,
    );
    running.child.kill("SIGHUP");
    await running.waitFor(/the new configuration is in service/);
    expect(await exchange(other, "more")).toBe("more");
  });
});

describe("circles", () => {
  test("a reload that would make a frontend its own server is refused, and the old configuration serves on", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const listen = await freePort();
    const file = join(directory.path, "config.toml");
    await writeFile(file, minimal(server.port, "", listen));
    await using running = serving(["-c", file]);
    await running.waitFor(/is ready/);
    const circle = minimal(listen, "", listen).replace('listen_addr = "127.0.0.1', 'listen_addr = "0.0.0.0');
    await writeFile(file, circle);
    await running.waitFor(/reload rejected.*itself listens.*connections would go in a circle/);
    expect(await exchange(listen, "still")).toBe("still");
  });

  test("a frontend may have another frontend as its server, where that is no circle", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const [outer, inner] = [await freePort(), await freePort()];
    const file = join(directory.path, "config.toml");
    const second = `[frontends.inner]\nlisten_addr = "127.0.0.1:${inner}"\nbackend = "inner"\n[backends.inner.servers.s1]\naddr = "127.0.0.1:${server.port}"\n`;
    await writeFile(file, `${minimal(inner, "", outer)}${second}`);
    await using running = serving(["-c", file]);
    await running.waitFor(/is ready/);
    expect(await exchange(outer, "through both")).toBe("through both");
  });
});

describe("readers of the log", () => {
  test("a closed standard error and output do not end it", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const { running, port } = await ready(await configuration(directory.path, server.port));
    await using _ = running;
    running.child.stderr?.destroy();
    running.child.stdout?.destroy();
    for (let round = 0; round < 5; round++) {
      running.child.kill("SIGHUP");
      expect(await exchange(port, `round ${round}`)).toBe(`round ${round}`);
    }
    running.child.kill("SIGTERM");
    expect(await once(running.child, "exit")).toEqual([0, null]);
  });

  test("a reader that stops reading costs log lines, not traffic, nor the end", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const file = join(directory.path, "config.toml");
    const port = await freePort();
    await writeFile(file, minimal(server.port, "", port));
    const { reader, writer } = fullPipe(join(directory.path, "pipe"));
    const child = spawn(process.execPath, [join(ROOT, "dist/cli/main.js"), "-c", file], {
      stdio: ["ignore", writer, writer],
    });
    const ended = once(child, "exit");
    try {
      await until(() => reachable(port), "a listener");
      for (let round = 0; round < 3; round++) {
        child.kill("SIGHUP");
        expect(await exchange(port, "through")).toBe("through");
      }
      const begun = performance.now();
      child.kill("SIGTERM");
      expect(await ended).toEqual([0, null]);
      expect(performance.now() - begun).toBeLessThan(3000);
    } finally {
      child.kill("SIGKILL");
      closeSync(reader);
      closeSync(writer);
    }
  });
});

/** A pipe without room, whose reader holds it open and never reads; `writer` blocks, as inherited ones do. */
function fullPipe(path: string): { reader: number; writer: number } {
  execFileSync("mkfifo", [path]);
  const reader = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  for (const size of [4096, 1]) {
    try {
      for (;;) writeSync(reader, Buffer.alloc(size));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
    }
  }
  return { reader, writer: openSync(path, constants.O_WRONLY) };
}

/** Opens a connection that has been accepted by the server behind. */
async function open(port: number): Promise<Socket> {
  const socket = connect(port, "127.0.0.1");
  socket.on("error", () => {});
  await once(socket, "connect");
  await echoed(socket, "ping");
  return socket;
}

async function echoed(socket: Socket, text: string): Promise<string> {
  socket.write(text);
  const [bytes] = (await once(socket, "data")) as [Buffer];
  return bytes.toString();
}

const refused = async (port: number): Promise<boolean> => !(await reachable(port));

function reachable(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("error", () => resolve(false));
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
  });
}

function line(output: string, word: string): string {
  return output.split("\n").find((each) => each.includes(word)) ?? "";
}

function noColor(): NodeJS.ProcessEnv {
  return { ...process.env, NO_COLOR: "1", TERM: "xterm" };
}
