import { once } from "node:events";
import { type IncomingMessage, request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { createParser, type EventSourceMessage } from "eventsource-parser";
import { expect, test } from "vitest";
import { type Api, api } from "../../support/api.ts";
import { ask } from "../../support/control.ts";

type Stream = { incoming: IncomingMessage; seen: EventSourceMessage[]; close: () => void };

async function stream({ address }: Api, headers: Record<string, string> = {}): Promise<Stream> {
  const outgoing = request({ ...address, path: "/api/v1/events", agent: false, headers });
  outgoing.on("error", () => undefined);
  outgoing.end();
  const [incoming] = (await once(outgoing, "response")) as [IncomingMessage];
  const seen: EventSourceMessage[] = [];
  const parser = createParser({ onEvent: (event) => void seen.push(event) });
  incoming.setEncoding("utf8").on("data", (text: string) => parser.feed(text));
  incoming.on("error", () => undefined);
  return { incoming, seen, close: () => outgoing.destroy() };
}

const data = ({ data }: EventSourceMessage) => JSON.parse(data) as Record<string, unknown>;

test("events come as they happen, with id, type and JSON, and the stream ends with the balancer", async () => {
  const it = await api();
  const { incoming, seen } = await stream(it);
  expect(incoming.headers["content-type"]).toBe("text/event-stream");
  expect(incoming.headers["cache-control"]).toBe("no-store");
  await it.call("PATCH", "/api/v1/servers/pool/s1", { weight: 3 });
  await it.call("PATCH", "/api/v1/servers/pool/s1", { state: "draining" });
  await expect.poll(() => seen.map(({ event }) => event)).toEqual(["weight", "drain", "drain"]);
  expect(data(seen[0] as EventSourceMessage)).toMatchObject({ type: "weight", server: "s1", weight: 3 });
  expect(new Set(seen.map(({ id }) => id)).size).toBe(3);
  const ended = once(incoming, "end");
  await it[Symbol.asyncDispose]();
  await ended;
});

test("a reader that comes back with the last id it saw misses nothing", async () => {
  await using it = await api();
  const first = await stream(it);
  it.lb.setWeight("pool/s1", 2);
  await expect.poll(() => first.seen.length).toBe(1);
  first.close();
  it.lb.setWeight("pool/s1", 3);
  it.lb.setWeight("pool/s1", 4);
  const { seen } = await stream(it, { "last-event-id": first.seen[0]?.id ?? "" });
  await expect.poll(() => seen.map((event) => data(event).weight)).toEqual([3, 4]);
  const stranger = await stream(it, { "last-event-id": "another-process-1" });
  it.lb.setWeight("pool/s1", 5);
  await expect.poll(() => stranger.seen.map((event) => data(event).weight)).toEqual([5]);
});

test("a reader that is too slow loses the oldest, is told how many, and keeps nobody else", async () => {
  await using it = await api();
  const slow = await stream(it);
  const quick = await stream(it);
  slow.incoming.pause();
  const EVENTS = 60_000;
  for (let i = 1; i <= EVENTS; i++) {
    it.lb.setWeight("pool/s1", i % 1000);
    if (i % 200 === 0) await sleep(1);
  }
  const told = ({ seen }: Stream) =>
    seen.map(data).reduce((sum, it) => sum + (it.type === "dropped" ? Number(it.count) : 1), 0);
  await expect.poll(() => told(quick), { timeout: 20_000 }).toBe(EVENTS);
  slow.incoming.resume();
  await expect.poll(() => told(slow), { timeout: 20_000 }).toBe(EVENTS);
  expect(slow.seen.some(({ event }) => event === "dropped")).toBe(true);
  expect(slow.seen.length).toBeLessThan(EVENTS);
});

test("streams of one listener are bounded; one that closes makes room, and HEAD takes none", async () => {
  await using it = await api();
  const open = await Promise.all(Array.from({ length: 32 }, () => stream(it)));
  expect(open.map(({ incoming }) => incoming.statusCode)).toEqual(Array(32).fill(200));
  const more = await ask(it.address, "/api/v1/events");
  expect([more.status, JSON.parse(more.body).code]).toEqual([503, "TOO_MANY"]);
  expect((await ask(it.address, "/api/v1/events", { method: "HEAD" })).status).toBe(200);
  expect((await ask(it.address, "/healthz")).status).toBe(200);
  open[0]?.close();
  await expect.poll(async () => (await stream(it)).incoming.statusCode).toBe(200);
});
