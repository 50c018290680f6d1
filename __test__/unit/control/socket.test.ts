import { spawnSync } from "node:child_process";
import { chmod, mkdir, mkdtemp, readdir, rm, stat, symlink, utimes, writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ask } from "../../../ts/cli/client.ts";
import { AdminSocket } from "../../../ts/http/socket.ts";
import { distrust, socketFolders, socketName } from "../../../ts/http/socket-path.ts";
import type { AdminSource } from "../../../ts/http/source.ts";

let directory: string;
const open: { close: () => Promise<void> }[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "convey-socket-"));
});

afterEach(async () => {
  for (const it of open.splice(0)) await it.close();
  await rm(directory, { recursive: true, force: true });
});

/** A balancer of which only the answers to POST /api/v1/reload matter. */
const source = (name: string): AdminSource =>
  ({
    readiness: () => ({ ready: true, reason: "", frontends: {} }),
    file: "/etc/convey/web.toml",
    reload: async () => ({ result: name }),
  }) as unknown as AdminSource;

async function opened(name: string, folders = [join(directory, "convey")]): Promise<AdminSocket> {
  const result = await AdminSocket.open("/etc/convey/web.toml", source(name), { folders });
  if (result.socket === undefined) throw new Error(result.why);
  open.push(result.socket);
  return result.socket;
}

const why = async (folders: string[]): Promise<string> => {
  const result = await AdminSocket.open("/etc/convey/web.toml", source("x"), { folders });
  return result.socket === undefined ? result.why : "opened";
};

test("it is for its owner alone, answers any Host, takes changes without a token, and leaves nothing behind", async () => {
  const socket = await opened("one");
  const folder = join(directory, "convey");
  expect([(await stat(folder)).mode & 0o777, (await stat(socket.path)).mode & 0o777]).toEqual([0o700, 0o600]);
  expect(await ask({ socketPath: socket.path }, "/healthz", 5000)).toMatchObject({ ok: true, status: 200 });
  const changed = await new Promise<string>((resolve) => {
    const client = connect({ path: socket.path }).setEncoding("utf8");
    let text = "";
    client.on("data", (chunk) => {
      text += chunk;
    });
    client.on("close", () => resolve(text));
    client.write("POST /api/v1/reload HTTP/1.1\r\nHost: anything\r\nConnection: close\r\n\r\n");
  });
  expect(changed).toMatch(/^HTTP\/1\.1 200 .*\{"result":"one"\}/s);
  await open.pop()?.close();
  expect(await readdir(directory)).toEqual([]);
});

test("a process that exits without closing takes its socket away", async () => {
  const socket = await opened("one");
  socket.abandon();
  await expect(stat(socket.path)).rejects.toMatchObject({ code: "ENOENT" });
  socket.abandon();
});

test("a socket that nobody answers is taken over, one that a living process answers is not", async () => {
  const folder = join(directory, "convey");
  await mkdir(folder, { mode: 0o700 });
  const path = join(folder, socketName("/etc/convey/web.toml"));
  // What a killed process leaves: a socket without a listener.
  spawnSync(process.execPath, [
    "-e",
    `require("node:net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, "SIGKILL"))`,
  ]);
  expect((await stat(path)).isSocket()).toBe(true);
  await opened("taken over");
  expect(await ask({ socketPath: path }, "/healthz", 5000)).toMatchObject({ ok: true, status: 200 });
  expect(await why([folder])).toBe(`another convey that runs /etc/convey/web.toml answers at ${path}`);
});

test("stale sockets of other files are swept away once they are old enough to be nobody's, living ones stay", async () => {
  const folder = join(directory, "convey");
  await mkdir(folder, { mode: 0o700 });
  const [dead, young, foreign] = ["dead", "young", "x"].map((name) =>
    join(folder, name === "x" ? "foreign.sock" : socketName(`/etc/${name}.toml`)),
  ) as [string, string, string];
  for (const path of [dead, young, foreign]) {
    spawnSync(process.execPath, [
      "-e",
      `require("node:net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, "SIGKILL"))`,
    ]);
  }
  const living = await AdminSocket.open("/etc/living.toml", source("living"), { folders: [folder] });
  if (living.socket) open.push(living.socket);
  const old = new Date(Date.now() - 60_000);
  for (const path of [dead, foreign, living.socket?.path ?? ""]) await utimes(path, old, old);
  await opened("next");
  expect((await readdir(folder)).sort()).toEqual(
    [young, foreign, living.socket?.path ?? "", join(folder, socketName("/etc/convey/web.toml"))]
      .map((path) => basename(path))
      .sort(),
  );
});

test("what is no socket stays where it is, and says so", async () => {
  const folder = join(directory, "convey");
  await mkdir(folder, { mode: 0o700 });
  const path = join(folder, socketName("/etc/convey/web.toml"));
  await writeFile(path, "precious");
  expect(await why([folder])).toBe(`${folder} has something else than a socket at ${path}`);
});

test("folders that others can write, links and too long paths are passed over for the next one", async () => {
  const shared = join(directory, "shared");
  await mkdir(shared);
  await chmod(shared, 0o777);
  await mkdir(join(directory, "real"), { mode: 0o700 });
  const link = join(directory, "link");
  await symlink(join(directory, "real"), link);
  const long = join(directory, "x".repeat(80));
  const nowhere = join(directory, "none", "convey");
  expect(await why([shared, link, long, nowhere])).toBe(
    `${shared} can be written by others, ${link} is no directory, ${long} has too long a path, ${nowhere} ENOENT`,
  );
  const socket = await opened("next", [shared, join(directory, "mine")]);
  expect(socket.path).toBe(join(directory, "mine", socketName("/etc/convey/web.toml")));
  expect(await distrust(shared)).toBe("can be written by others");
});

test("several balancers of one process have a socket each, by their files", async () => {
  const folders = [join(directory, "convey")];
  const sockets = await Promise.all(
    ["a/web.toml", "b/web.toml"].map((file) => AdminSocket.open(file, source(file), { folders })),
  );
  for (const { socket } of sockets) if (socket) open.push(socket);
  expect(new Set(sockets.map(({ socket }) => socket?.path)).size).toBe(2);
});

test("the name tells the file apart and can be read; the folders are root's, the session's and the user's own", () => {
  expect(socketName("/etc/convey/web.toml")).toMatch(/^web-[0-9a-f]{12}\.sock$/);
  expect(socketName("/etc/other/web.toml")).not.toBe(socketName("/etc/convey/web.toml"));
  expect(socketName("/etc/convey/../convey/web.toml")).toBe(socketName("/etc/convey/web.toml"));
  expect(socketName(`/${"ü b/".repeat(3)}${"x".repeat(200)}.toml`)).toMatch(/^x{32}-[0-9a-f]{12}\.sock$/);
  expect(socketFolders({ XDG_RUNTIME_DIR: "/run/user/7" }, 7)).toEqual([
    "/run/convey",
    "/run/user/7/convey",
    "/tmp/convey-7",
  ]);
  expect(socketFolders({ XDG_RUNTIME_DIR: "relative", CONVEY_STATE_DIR: "/state" }, 7)).toEqual([
    "/state",
    "/run/user/7/convey",
    "/tmp/convey-7",
  ]);
});

test("asking a socket where something else answers is no answer of a balancer's", async () => {
  const path = join(directory, "s");
  const server = createServer((socket) =>
    socket
      .on("error", () => undefined)
      .resume()
      .end("hello\r\n"),
  );
  await new Promise<void>((done) => server.listen(path, done));
  open.push({ close: () => new Promise((done) => server.close(() => done())) });
  expect(await ask({ socketPath: path }, "/healthz", 5000)).toMatchObject({ ok: false });
});

test("with a group its members may connect: the socket has mode 0660 and they may pass the folder", async () => {
  const folder = join(directory, "convey");
  await mkdir(folder, { mode: 0o700 });
  const gid = process.getgid?.() as number;
  const result = await AdminSocket.open("/etc/convey/web.toml", source("one"), { gid, folders: [folder] });
  if (result.socket === undefined) throw new Error(result.why);
  open.push(result.socket);
  const found = await stat(result.socket.path);
  expect([found.mode & 0o777, found.gid]).toEqual([0o660, gid]);
  expect((await stat(folder)).mode & 0o777).toBe(0o711);
  expect(await distrust(folder)).toBeUndefined();
});
