import { expect, test } from "vitest";
import { type BalancerEvent, EventHub } from "../../../ts/control/events.ts";

const fatal = (message: string): BalancerEvent => ({ type: "fatal", message, at: new Date(0) });

async function read(events: AsyncIterable<BalancerEvent>): Promise<string[]> {
  const seen: string[] = [];
  for await (const event of events) {
    seen.push(
      event.type === "fatal" ? event.message : `${event.type} ${"count" in event ? event.count : ""}`,
    );
  }
  return seen;
}

test("every reader gets every event from its own subscription on, in order", async () => {
  const hub = new EventHub();
  const early = hub.subscribe();
  hub.emit(fatal("a"));
  const late = hub.subscribe();
  hub.emit(fatal("b"));
  hub.close();
  expect(await read(early)).toEqual(["a", "b"]);
  expect(await read(late)).toEqual(["b"]);
});

test("a reader that waits is woken by the next event, and several waits are served in order", async () => {
  const hub = new EventHub();
  const events = hub.subscribe();
  const first = events.next();
  const second = events.next();
  hub.emit(fatal("a"));
  hub.emit(fatal("b"));
  expect((await first).value).toMatchObject({ message: "a" });
  expect((await second).value).toMatchObject({ message: "b" });
});

test("a slow reader loses the oldest events and is told how many before the next one", async () => {
  const hub = new EventHub(2);
  const events = hub.subscribe();
  for (const message of ["a", "b", "c", "d", "e"]) hub.emit(fatal(message));
  hub.close();
  expect(await read(events)).toEqual(["dropped 3", "d", "e"]);
});

test("a slow reader takes nothing from the others", async () => {
  const hub = new EventHub(1);
  const slow = hub.subscribe();
  const quick = hub.subscribe();
  for (const message of ["a", "b", "c"]) {
    const next = quick.next();
    hub.emit(fatal(message));
    expect((await next).value).toMatchObject({ message });
  }
  hub.close();
  expect(await read(slow)).toEqual(["dropped 2", "c"]);
});

test("breaking out of the loop ends the subscription", async () => {
  const hub = new EventHub();
  const events = hub.subscribe();
  hub.emit(fatal("a"));
  for await (const _ of events) break;
  hub.emit(fatal("b"));
  expect(await events.next()).toEqual({ done: true, value: undefined });
});

test("closing ends readers that wait and those that come later", async () => {
  const hub = new EventHub();
  const waiting = hub.subscribe().next();
  hub.close();
  expect(await waiting).toEqual({ done: true, value: undefined });
  expect(await hub.subscribe().next()).toEqual({ done: true, value: undefined });
});
