/**
 * A program with a balancer of its own: takes a configuration as JSON in its argument and says "ready". Each line of its
 * input is `[id, method, ...arguments]` of the balancer; the answer is a line `[id, value]` or `[id, null, message]`.
 * Of a method that gives values one after the other, each is a line, and the last is `[id]`.
 */
import { createInterface } from "node:readline";
import { type Balancer, createBalancer } from "../../../ts/index.ts";

type Answer = Promise<unknown> | AsyncIterable<unknown>;

const balancer = await createBalancer(JSON.parse(process.argv[2] ?? "{}"));
const say = (...line: unknown[]): void => console.log(JSON.stringify(line));
console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  const [id, method, ...args] = JSON.parse(line) as [number, keyof Balancer, ...unknown[]];
  void answer(id, () => (balancer[method] as (...args: unknown[]) => Answer).call(balancer, ...args));
}
await balancer.close();

async function answer(id: number, ask: () => Answer): Promise<void> {
  try {
    const answered = ask();
    if (Symbol.asyncIterator in answered) {
      for await (const value of answered) say(id, value);
      say(id);
    } else {
      say(id, await answered);
    }
  } catch (error) {
    say(id, null, String(error));
  }
}
