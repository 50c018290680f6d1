import { chmod, mkdir, rm, stat, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { socketName } from "../../../ts/http/socket-path.ts";
import { until } from "../../support/processes.ts";
import { echo, freePort, listening } from "../../support/sockets.ts";
import { configuration, convey, folder, minimal, serving } from "./convey.ts";

/** Variables by which the socket is in a folder of the test's own. */
const session = (path: string): NodeJS.ProcessEnv => ({
  ...process.env,
  CONVEY_STATE_DIR: join(path, "run"),
});

/** Where the socket of a configuration is, if it is. */
async function socketOf(file: string, directory: string): Promise<string | undefined> {
  const path = join(directory, "run", socketName(file));
  return (await stat(path).catch(() => undefined)) && path;
}

describe("healthcheck asks the process", () => {
  test("exits 0 beside a running one without any HTTP server, and 1 after it ended, which leaves no socket", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const env = session(directory.path);
    const file = await configuration(directory.path, server.port);
    await using running = serving(["-c", file], env);
    await running.waitFor(/is ready/);
    const socket = await socketOf(file, directory.path);
    expect((await stat(socket as string)).mode & 0o777).toBe(0o600);
    expect(await convey(["healthcheck", "-c", file], { env })).toMatchObject({
      code: 0,
      stdout: "healthy\n",
      stderr: "",
    });
    await running.stop();
    expect(await socketOf(file, directory.path)).toBeUndefined();
    const after = await convey(["healthcheck", "-c", file], { env });
    expect(after.code).toBe(1);
    expect(after.stderr).toContain(`no socket ${socketName(file)} in ${directory.path}/run, `);
    expect(after.stderr).toContain("add [stats] with a port");
  });

  test("stays at 0 while an edit that was refused lies in the file, whatever is wrong with it", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const env = session(directory.path);
    const file = await configuration(directory.path, server.port);
    await using running = serving(["-c", file], env);
    await running.waitFor(/is ready/);
    const refusals = () => running.stderr.split("reload rejected").length - 1;
    for (const [i, broken] of [minimal(server.port, "[nonsense]\nx = 1"), "not = [toml", ""].entries()) {
      await writeFile(file, broken);
      await until(() => refusals() > i, "a refusal", 10_000);
      expect(await convey(["healthcheck", "-c", file], { env }), broken).toMatchObject({
        code: 0,
        stderr: "",
      });
    }
    await rm(file);
    expect(await convey(["healthcheck", "-c", file], { env })).toMatchObject({ code: 0 });
  });

  test("exits 1 when the process was killed, and the next start takes over the socket it left", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const env = session(directory.path);
    const file = await configuration(directory.path, server.port);
    await using first = serving(["-c", file], env);
    await first.waitFor(/is ready/);
    first.child.kill("SIGKILL");
    await first.exited;
    const socket = (await socketOf(file, directory.path)) as string;
    expect(socket).toBeDefined();
    const dead = await convey(["healthcheck", "-c", file], { env });
    expect(dead.code).toBe(1);
    expect(dead.stderr).toContain(`${socket}: connection refused: nothing runs there`);
    await using second = serving(["-c", file], env);
    await second.waitFor(/is ready/);
    expect(await convey(["healthcheck", "-c", file], { env })).toMatchObject({ code: 0 });
  });

  test("exits 1 within its timeout when the process is stopped, though its HTTP server is named too", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const env = session(directory.path);
    const file = await configuration(directory.path, server.port, `[stats]\nport = ${await freePort()}`);
    await using running = serving(["-c", file], env);
    await running.waitFor(/is ready/);
    running.child.kill("SIGSTOP");
    try {
      const stopped = await convey(["healthcheck", "-c", file, "--timeout=300"], { env });
      expect(stopped.stderr).toMatch(/^unhealthy: .+\.sock: no answer within 300 ms\n$/);
      expect(stopped.code).toBe(1);
    } finally {
      running.child.kill("SIGCONT");
    }
    expect(await convey(["healthcheck", "-c", file], { env })).toMatchObject({ code: 0 });
  });

  test("of two that run one file the second serves without a socket and says so; the first is asked", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const env = session(directory.path);
    const file = await configuration(directory.path, server.port);
    await using first = serving(["-c", file], env);
    await first.waitFor(/is ready/);
    await using second = serving(["-c", file], env);
    await second.waitFor(/another convey that runs .* answers at/);
    await second.waitFor(/is ready/);
    await second.stop();
    expect(await convey(["healthcheck", "-c", file], { env })).toMatchObject({ code: 0 });
  });

  test("another file is another socket, under whatever name the same file is given", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const env = session(directory.path);
    const file = await configuration(directory.path, server.port);
    await using running = serving(["-c", file], env);
    await running.waitFor(/is ready/);
    const cwd = directory.path;
    expect(await convey(["healthcheck", "-c", "./config.toml"], { env, cwd })).toMatchObject({ code: 0 });
    expect(await convey(["healthcheck"], { env, cwd })).toMatchObject({ code: 0 });
    await mkdir(join(cwd, "other"));
    const other = await configuration(join(cwd, "other"), server.port);
    expect(await convey(["healthcheck", "-c", other], { env, cwd })).toMatchObject({ code: 1 });
  });
});

describe("healthcheck by another name of the file", () => {
  test("finds the process by a link to its file, and by the same link as it was started by", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const env = session(directory.path);
    const file = await configuration(directory.path, server.port);
    await mkdir(join(directory.path, "links"));
    const link = join(directory.path, "links", "live.toml");
    await symlink(file, link);
    {
      await using running = serving(["-c", file], env);
      await running.waitFor(/is ready/);
      expect(await convey(["healthcheck", "-c", link], { env })).toMatchObject({ code: 0, stderr: "" });
      await running.stop();
    }
    await using running = serving(["-c", link], env);
    await running.waitFor(/is ready/);
    expect(await convey(["healthcheck", "-c", link], { env })).toMatchObject({ code: 0, stderr: "" });
  });
});

describe("healthcheck without a socket", () => {
  test("a state folder that cannot have the socket is told with the place where it is instead", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    await mkdir(join(directory.path, "run"), { mode: 0o777 });
    await chmod(join(directory.path, "run"), 0o777);
    const env = { ...session(directory.path), XDG_RUNTIME_DIR: directory.path };
    const file = await configuration(directory.path, server.port);
    await using running = serving(["-c", file], env);
    await running.waitFor(
      /the socket for .* is .*\/convey\/.*, not in CONVEY_STATE_DIR: .*\/run can be written by others/,
    );
    expect(await convey(["healthcheck", "-c", file], { env })).toMatchObject({ code: 0 });
  });

  /** A running one whose socket is gone, as for a user who may not open it. */
  async function withoutSocket(file: string, env: NodeJS.ProcessEnv, runtime: string) {
    const running = serving(["-c", file], env);
    await running.waitFor(/is ready/);
    await rm((await socketOf(file, runtime)) as string);
    return running;
  }

  test("asks the HTTP server that [stats] names, even in a file that is invalid otherwise", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    const env = session(directory.path);
    const stats = await freePort();
    const table = `[stats]\nport = "${stats}"\nbind = "0.0.0.0"\ntoken_file = "${directory.path}/token"`;
    await writeFile(join(directory.path, "token"), "t0ken", { mode: 0o600 });
    const file = await configuration(directory.path, server.port, table);
    await using running = await withoutSocket(file, env, directory.path);
    expect(await convey(["healthcheck", "-c", file], { env })).toMatchObject({ code: 0 });
    await writeFile(file, minimal(server.port, `nonsense = true\n${table}`));
    await running.waitFor(/reload rejected/);
    expect(await convey(["healthcheck", "-c", file], { env })).toMatchObject({ code: 0 });
    await writeFile(file, "not = [toml");
    const unreadable = await convey(["healthcheck", "-c", file], { env });
    expect(unreadable.code).toBe(1);
    expect(unreadable.stderr).toMatch(
      /no socket .* in .*config\.toml \(not valid TOML.*names no HTTP server/,
    );
    await running.stop();
    await configuration(directory.path, server.port, table);
    const after = await convey(["healthcheck", "-c", file], { env });
    expect(after.code).toBe(1);
    expect(after.stderr).toContain(
      `http://127.0.0.1:${stats}/healthz: connection refused: nothing runs there\n`,
    );
  });

  test("asks what --stats-port names and nothing else, and exits 1 in time when that says nothing, or says no", async () => {
    await using directory = await folder();
    await using silent = await deaf();
    const file = await configuration(directory.path, 9);
    const none = await convey(["healthcheck", "-c", file, `--stats-port=${silent.port}`, "--timeout=200"]);
    expect(none.stderr).toMatch(/^unhealthy: http:\S+: no answer within 200 ms\n$/);
    expect(none.code).toBe(1);
    const refusing = createServer((_request, response) => response.writeHead(500).end());
    await new Promise<void>((resolve) => refusing.listen(0, "127.0.0.1", resolve));
    const { port } = refusing.address() as AddressInfo;
    const no = await convey(["healthcheck", "-c", file, `--stats-port=${port}`]);
    refusing.close();
    expect(no.stderr).toContain("HTTP status 500");
    expect(no.code).toBe(1);
  });

  test("believes no folder that others can write, neither to ask in nor to listen in", async () => {
    await using server = await listening(echo);
    await using directory = await folder();
    await mkdir(join(directory.path, "run"), { mode: 0o777 });
    await chmod(join(directory.path, "run"), 0o777);
    const env = session(directory.path);
    const file = await configuration(directory.path, server.port);
    const pretender = createTcpServer((socket) => {
      socket.on("error", () => {}).end("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    });
    await new Promise<void>((resolve) =>
      pretender.listen(join(directory.path, "run", socketName(file)), resolve),
    );
    const said = await convey(["healthcheck", "-c", file], { env });
    expect(said.code).toBe(1);
    expect(said.stderr).toContain(`${directory.path}/run: can be written by others`);
    pretender.close();
  });
});

/** Accepts and never answers. */
async function deaf(): Promise<AsyncDisposable & { port: number }> {
  const server = createServer(() => {});
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
