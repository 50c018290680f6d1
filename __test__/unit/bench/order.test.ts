import { expect, test } from "vitest";
import { visitingOrder } from "../../bench/order.ts";

const PEERS = ["a", "b", "c"];

test("a round goes there and back, with the reference once in the middle", () => {
  expect(visitingOrder(PEERS, ["plain"], 1)).toEqual(["a", "b", "c", "plain", "c", "b", "a"]);
  expect(visitingOrder(["a"], [], 3)).toEqual(["a", "a"]);
  expect(visitingOrder([], ["plain"], 2)).toEqual(["plain"]);
});

test("each round begins with another peer, and after as many rounds as peers each has begun once", () => {
  const rounds = [1, 2, 3, 4].map((n) => visitingOrder(PEERS, ["plain"], n));
  expect(rounds.map((round) => round[0])).toEqual(["a", "b", "c", "a"]);
  for (const round of rounds) expect(round).toEqual(round.toReversed());
});

test("over as many rounds as peers every peer was at every place as often as every other", () => {
  const rounds = PEERS.map((_, n) => visitingOrder(PEERS, ["plain"], n + 1));
  for (let place = 0; place < 2 * PEERS.length + 1; place++) {
    const there = rounds.map((round) => round[place]).sort();
    expect(there).toEqual(place === PEERS.length ? ["plain", "plain", "plain"] : PEERS);
  }
});
