/**
 * Where the Unix socket of a running `convey run` is, found from the path of its configuration file alone, so
 * that commands reach the process whatever the file says by now.
 */
import { createHash } from "node:crypto";
import { realpathSync } from "node:fs";
import { lstat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";

/** The kernel's limit on the path of a Unix socket, its final zero not counted. */
export const MAX_SOCKET_PATH = 107;

const SYSTEM = "/run/convey";

/** How names end; nobody else's files do. */
export const SOCKET_NAME = /-[0-9a-f]{12}\.sock$/;

/** A readable name that no other configuration file has. */
export function socketName(configFile: string): string {
  return nameOf(absolute(configFile));
}

/** The names under which the process may have been started that runs this file: by this path, or by the one it links to. */
export function socketNames(configFile: string): string[] {
  const path = absolute(configFile);
  try {
    return [...new Set([path, realpathSync(path)])].map(nameOf);
  } catch {
    return [nameOf(path)];
  }
}

function nameOf(path: string): string {
  const stem = basename(path, ".toml")
    .replace(/[^\w.-]/g, "-")
    .slice(0, 32);
  return `${stem}-${createHash("sha256").update(path).digest("hex").slice(0, 12)}.sock`;
}

/**
 * Folders in which the socket may be, the first that can be used first. `CONVEY_STATE_DIR` stands for
 * /run/convey, as it does for what is to be undone on the host.
 */
export function socketFolders(env: NodeJS.ProcessEnv = process.env, uid = ownUid()): string[] {
  const session = [env.XDG_RUNTIME_DIR, `/run/user/${uid}`].filter((path) => path?.startsWith("/"));
  const system = env.CONVEY_STATE_DIR || SYSTEM;
  return [
    ...new Set([system, ...session.map((path) => join(path as string, "convey")), `/tmp/convey-${uid}`]),
  ];
}

/**
 * Why a folder is not to be trusted with a socket; undefined when it is. Others must not be able to put a
 * socket of theirs there, or to have made the folder.
 *
 * @throws the system's error when it cannot be looked at.
 */
export async function distrust(folder: string, uid = ownUid()): Promise<string | undefined> {
  const stat = await lstat(folder);
  if (!stat.isDirectory()) return "is no directory";
  // Only root makes entries of /run; a service manager gives this one to the service's user.
  const ours = stat.uid === uid || stat.uid === 0 || folder === SYSTEM;
  if (!ours) return `belongs to another user (uid ${stat.uid})`;
  return (stat.mode & 0o022) === 0 ? undefined : "can be written by others";
}

export const ownUid = (): number => process.geteuid?.() ?? 0;

/** The folder's links are followed, the file's are not: Kubernetes changes the latter at each update. */
function absolute(file: string): string {
  const path = resolve(file);
  try {
    return join(realpathSync(dirname(path)), basename(path));
  } catch {
    return path;
  }
}
