/** One bootstrap at a time in a checkout. */
import { createHash } from "node:crypto";
import { realpathSync } from "node:fs";
import { createServer } from "node:net";

/**
 * Runs `work` while holding the checkout's lock; calls `onWait` once when somebody else holds it.
 * The lock is an abstract Unix socket: the kernel releases it however its holder ends, so none is ever left behind.
 */
export async function withLock(root, onWait, work) {
  const name = `\0convey-bootstrap-${createHash("sha256").update(realpathSync(root)).digest("hex").slice(0, 32)}`;
  let told = false;
  for (;;) {
    const held = await tryListen(name);
    if (held) {
      try {
        return await work();
      } finally {
        held.close();
      }
    }
    if (!told) onWait();
    told = true;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

function tryListen(name) {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.once("error", (error) => (error.code === "EADDRINUSE" ? resolve(undefined) : reject(error)));
    server.listen(name, () => resolve(server));
  });
}
