/** A process of its own that stands in for any number of servers on addresses of 127.0.0.0/8. */
import { createSocket } from "node:dgram";
import { readFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";

/** What comes: connections, requests of HTTP, requests by TLS, an exchange, datagrams. */
export type Asked = "tcp" | "http" | "https" | "send_expect" | "udp";

/** Answers every connection, on every address of the loopback network, until the parent is gone; tells it the port. */
export function serve(asked: Asked = "tcp", files?: { certificate: string; key: string }): void {
  if (asked === "udp") {
    const socket = createSocket("udp4");
    socket.on("message", (_, from) => socket.send("pong", from.port, from.address));
    socket.bind(0, "0.0.0.0", () => process.send?.(socket.address().port));
    process.on("disconnect", () => process.exit());
    return;
  }
  const answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\npong";
  const listener = (socket: Socket): void => {
    socket.on("error", () => {});
    if (asked === "tcp") socket.end();
    else socket.once("data", () => socket.end(answer));
  };
  const pem = files && { cert: readFileSync(files.certificate), key: readFileSync(files.key) };
  const server = pem ? createTlsServer(pem, listener) : createServer(listener);
  server.listen({ host: "0.0.0.0", port: 0, backlog: 4096 }, () => {
    process.send?.((server.address() as { port: number }).port);
  });
  process.on("disconnect", () => process.exit());
}
