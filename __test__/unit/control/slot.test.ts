import { once } from "node:events";
import { createServer } from "node:net";
import { afterEach, expect, test } from "vitest";
import type { AdminSource } from "../../../ts/http/app.ts";
import { AdminSlot } from "../../../ts/http/slot.ts";
import { ask } from "../../support/control.ts";

const SOURCE = { readiness: () => ({ ready: true, reason: "", frontends: {} }) } as AdminSource;
const settings = (port: number, token?: string, host = "127.0.0.1") => ({ host, port, token, hosts: [] });

const lost: string[] = [];
let slot: AdminSlot;

afterEach(async () => {
  await slot.close();
  lost.length = 0;
});

async function started(): Promise<number> {
  slot = new AdminSlot(SOURCE, (message) => lost.push(message));
  (await slot.move(settings(0))).commit();
  return slot.address?.port ?? 0;
}

test("a move that fails keeps its cause, and when the old port is lost meanwhile, that is told and the next move opens", async () => {
  const port = await started();
  const moving = slot.move(settings(port, undefined, "192.0.2.1"));
  // Of the moment in which the port is free another process makes use.
  const thief = createServer().listen(port, "127.0.0.1");
  await once(thief, "listening");
  await expect(moving).rejects.toMatchObject({
    code: "BIND_FAILED",
    message: expect.stringContaining("192.0.2.1"),
  });
  expect(lost).toEqual([expect.stringMatching(/could not be opened again: .*EADDRINUSE/)]);
  expect(slot.address).toBeUndefined();
  thief.close();
  await once(thief, "close");
  (await slot.move(settings(port))).commit();
  expect((await ask(slot.address as { host: string; port: number }, "/healthz")).status).toBe(200);
});

test("a move taken back serves under the old settings again", async () => {
  const port = await started();
  const move = await slot.move(settings(port, "token"));
  await move.rollBack();
  expect(slot.serves(settings(0))).toBe(true);
  expect((await ask({ host: "127.0.0.1", port }, "/readyz")).status).toBe(200);
});

test("a move that is under way when the slot closes leaves no server", async () => {
  await started();
  const moving = slot.move(settings(0, "token"));
  await slot.close();
  await expect(moving).rejects.toMatchObject({ code: "CLOSED" });
  await expect(ask(slot.address as { host: string; port: number }, "/healthz")).rejects.toThrow();
});
