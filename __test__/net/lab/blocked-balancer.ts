/**
 * A program with a balancer of its own: takes a configuration as JSON in its argument, says "ready", and blocks its
 * event loop for as many milliseconds as each line of its input says; then says "awake".
 */
import { createInterface } from "node:readline";
import { createBalancer } from "../../../ts/index.ts";

const balancer = await createBalancer(JSON.parse(process.argv[2] ?? "{}"));
console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  const until = performance.now() + Number(line);
  while (performance.now() < until);
  console.log("awake");
}
await balancer.close();
