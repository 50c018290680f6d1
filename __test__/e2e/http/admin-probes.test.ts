import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { expect, test } from "vitest";
import { type Api, api } from "../../support/api.ts";
import { ask } from "../../support/control.ts";

/** Opens connections one after another, each of which sends `text` and nothing more. */
async function silent({ address }: Api, count: number, text: string): Promise<Socket[]> {
  const sockets: Socket[] = [];
  for (let i = 0; i < count; i++) {
    const socket = connect(address).on("error", () => undefined);
    await once(socket, "connect");
    if (text !== "") socket.write(text);
    sockets.push(socket);
  }
  return sockets;
}

test.each([
  ["say nothing", ""],
  ["stop within a head", "GET /healthz HTTP/1.1\r\nHost:"],
  [
    "send a head without its body",
    "PATCH /api/v1/servers/pool/s1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t0ken\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n",
  ],
  ["read no answer", "GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(60)],
])("200 connections that %s keep no probe out", async (_, text) => {
  await using it = await api();
  const sockets = await silent(it, 200, text);
  for (let i = 0; i < 10; i++) {
    const startedAt = performance.now();
    expect((await ask(it.address, "/healthz")).status).toBe(200);
    expect((await ask(it.address, "/readyz")).status).toBe(200);
    expect(performance.now() - startedAt).toBeLessThan(3000);
  }
  for (const socket of sockets) socket.destroy();
});
