import type { Context } from "hono";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { eventStream, type Message, Places } from "../../../ts/http/event-stream.ts";
import type { Env } from "../../../ts/http/guard.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const get = { req: { method: "GET" } } as Context<Env>;

function reader(places: Places, messages: AsyncIterator<Message>) {
  const source = eventStream(get, places, () => messages).body?.getReader();
  const read = async () => {
    const { done, value } = (await source?.read()) ?? { done: true, value: undefined };
    return done ? undefined : new TextDecoder().decode(value);
  };
  return { read, cancel: async () => await source?.cancel() };
}

test("silence is filled with a comment every 15 seconds, which costs no message", async () => {
  let tell: (result: IteratorResult<Message>) => void = () => undefined;
  const messages = { next: () => new Promise<IteratorResult<Message>>((resolve) => (tell = resolve)) };
  const { read } = reader(new Places(1), messages);
  expect(await read()).toBe("retry: 1000\n\n");
  for (let i = 0; i < 3; i++) {
    const comment = read();
    await vi.advanceTimersByTimeAsync(15_000);
    expect(await comment).toBe(":\n\n");
  }
  const message = read();
  await vi.advanceTimersByTimeAsync(1);
  tell({ done: false, value: { event: "drain", id: "a-1", data: { text: "two\nlines" } } });
  expect(await message).toBe('id: a-1\nevent: drain\ndata: {"text":"two\\nlines"}\n\n');
});

test("a client that goes ends the messages and frees its place, once", async () => {
  const places = new Places(1);
  const ended = vi.fn(async () => ({ done: true as const, value: undefined }));
  const { read, cancel } = reader(places, { next: () => new Promise(() => undefined), return: ended });
  await read();
  expect(() => places.take()).toThrow("1 streams are open here already");
  await cancel();
  expect(ended).toHaveBeenCalledOnce();
  const free = places.take();
  free();
  free();
  places.take();
  expect(() => places.take()).toThrow("which is the most");
});
