/** A process of its own that stands in for any number of servers on addresses of 127.0.0.0/8. */
import { createServer } from "node:net";

/** Answers every connection, on every address of the loopback network, until the parent is gone; tells it the port. */
export function serve(): void {
  const server = createServer((socket) => socket.on("error", () => {}).end());
  server.listen({ host: "0.0.0.0", port: 0, backlog: 4096 }, () => {
    process.send?.((server.address() as { port: number }).port);
  });
  process.on("disconnect", () => process.exit());
}
