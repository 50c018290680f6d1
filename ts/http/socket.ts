/**
 * The admin socket: a Unix socket by which commands ask and change the running balancer, for its owner alone or for a
 * group as well. What a killed process left is taken over; a living one's is left alone.
 */
import { rmdirSync, unlinkSync } from "node:fs";
import { chmod, chown, lstat, mkdir, readdir, unlink } from "node:fs/promises";
import type { Server } from "node:http";
import { connect } from "node:net";
import { dirname, join } from "node:path";
import { isMainThread } from "node:worker_threads";
import { createAdminApp } from "./app.ts";
import { SOCKET_ACCESS } from "./policy.ts";
import { closeServer, httpServer } from "./server.ts";
import { distrust, MAX_SOCKET_PATH, SOCKET_NAME, socketFolders, socketName } from "./socket-path.ts";
import type { AdminSource } from "./source.ts";

/** Attempts in one folder: another process may take the folder or a stale socket away in between. */
const ATTEMPTS = 3;
/** A process that lives accepts at once, even a stopped one: the kernel does it. */
const CONNECT_TIMEOUT_MS = 1000;
/** Older sockets that refuse a connect are nobody's. */
const YOUNG_MS = 10_000;

/** An open admin socket and why it is in none of the folders before, if it is not; or why there is none. */
export type OpenedSocket = { socket: AdminSocket; passedOver: string } | { socket: undefined; why: string };

/** See the module's head. Keeps no process alive. */
export class AdminSocket {
  readonly path: string;
  readonly #server: Server;

  private constructor(path: string, server: Server) {
    this.path = path;
    this.#server = server;
  }

  /** Opens the socket of `configFile`, for the group `gid` as well, in the first folder that can have it. Never rejects. */
  static async open(
    configFile: string,
    source: AdminSource,
    { gid, folders = socketFolders() }: { gid?: number | undefined; folders?: string[] } = {},
  ): Promise<OpenedSocket> {
    const tried: string[] = [];
    for (const folder of folders) {
      const path = join(folder, socketName(configFile));
      try {
        const server = await claim(path, source, gid);
        await sweep(folder);
        if (server !== undefined)
          return { socket: new AdminSocket(path, server), passedOver: tried.join(", ") };
        return { socket: undefined, why: `another convey that runs ${configFile} answers at ${path}` };
      } catch (error) {
        tried.push(
          `${folder} ${error instanceof Unfit ? error.message : (error as NodeJS.ErrnoException).code}`,
        );
      }
    }
    return { socket: undefined, why: tried.join(", ") };
  }

  /** Takes the socket away at once; answers under way get a moment. */
  async close(): Promise<void> {
    const closed = closeServer(this.#server);
    // The server has taken its file away; a folder that others use stays.
    removeQuietly(() => rmdirSync(dirname(this.path)));
    await closed;
  }

  /** While the process exits. */
  abandon(): void {
    removeQuietly(() => unlinkSync(this.path));
  }
}

class Unfit extends Error {}

/** Listens at `path`; undefined when another process does. */
async function claim(
  path: string,
  source: AdminSource,
  gid: number | undefined,
): Promise<Server | undefined> {
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH) throw new Unfit("has too long a path");
  for (let attempt = 1; ; attempt++) {
    try {
      await mkdir(dirname(path), { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "EEXIST") throw error;
      });
      const unfit = await distrust(dirname(path));
      if (unfit !== undefined) throw new Unfit(unfit);
      return await listen(path, source, gid);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (attempt === ATTEMPTS || (code !== "EADDRINUSE" && code !== "ENOENT")) throw error;
      if (code === "EADDRINUSE" && !(await removeStale(path))) return undefined;
    }
  }
}

async function listen(path: string, source: AdminSource, gid: number | undefined): Promise<Server> {
  const server = httpServer(createAdminApp(source, SOCKET_ACCESS));
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    // The file is made within this call: never with more rights than it is to have.
    const before = isMainThread ? process.umask(0o177) : undefined;
    try {
      server.listen({ path }, resolve);
    } finally {
      if (before !== undefined) process.umask(before);
    }
  });
  await chmod(path, 0o600);
  if (gid !== undefined) await openToGroup(path, gid, server);
  server.unref();
  return server;
}

/** Its members pass through the folder, which they need not read, and use this socket. */
async function openToGroup(path: string, gid: number, server: Server): Promise<void> {
  try {
    await chown(path, -1, gid);
    await chmod(path, 0o660);
    const folder = dirname(path);
    const { mode } = await lstat(folder);
    if ((mode & 0o011) !== 0o011) await chmod(folder, (mode & 0o777) | 0o011);
  } catch (error) {
    await closeServer(server);
    const { code } = error as NodeJS.ErrnoException;
    throw code === "EPERM"
      ? new Unfit(`cannot be opened to group ${gid}, of which this process is no member`)
      : error;
  }
}

/** Takes away a socket that nobody answers; whether it did. */
async function removeStale(path: string): Promise<boolean> {
  const found = await lstat(path).catch(() => undefined);
  if (found === undefined) return true;
  if (!found.isSocket()) throw new Unfit(`has something else than a socket at ${path}`);
  if (await answers(path)) return false;
  const now = await lstat(path).catch(() => undefined);
  // Another process may have taken it over meanwhile.
  if (now?.ino === found.ino) await unlink(path).catch(() => undefined);
  return true;
}

/**
 * Takes away what killed processes left under other names. Sockets that are young may belong to a process
 * that does not listen yet. Best effort: what cannot be looked at stays.
 */
async function sweep(folder: string): Promise<void> {
  const names = await readdir(folder).catch((): string[] => []);
  for (const name of names.filter((it) => SOCKET_NAME.test(it))) {
    const path = join(folder, name);
    const stat = await lstat(path).catch(() => undefined);
    if (stat?.isSocket() && Date.now() - stat.mtimeMs > YOUNG_MS) await removeStale(path).catch(() => false);
  }
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    const end = (alive: boolean): void => {
      socket.destroy();
      resolve(alive);
    };
    socket.once("connect", () => end(true));
    // A full queue is somebody's; a refused connect is nobody's.
    socket.once("error", (error: NodeJS.ErrnoException) => end(error.code !== "ECONNREFUSED"));
    socket.setTimeout(CONNECT_TIMEOUT_MS, () => end(true));
  });
}

function removeQuietly(remove: () => void): void {
  try {
    remove();
  } catch {}
}
