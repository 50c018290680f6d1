/**
 * A process for the test of a blocked event loop: it runs a balancer in front of the server given as its
 * argument, tells the frontend's port, then blocks whenever a line arrives on standard input, for as many
 * milliseconds as the line says, and afterwards tells what became of the server.
 */
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { createBalancer } from "../../ts/index.ts";

const addr = process.argv[2] as string;
const lb = await createBalancer({
  frontends: { web: { listen_addr: "127.0.0.1:0", backend: "pool" } },
  backends: {
    pool: {
      health_check_interval: 1,
      health_check_fast_interval_ms: 100,
      health_check_timeout_ms: 300,
      health_check_fall: 1,
      servers: { s1: { addr } },
    },
  },
});
let transitions = 0;
void (async () => {
  for await (const event of lb.events()) if (event.type === "server") transitions += 1;
})();

const tell = (message: object): boolean => process.stdout.write(`${JSON.stringify(message)}\n`);

tell({ port: lb.address("web").port });
for await (const line of createInterface({ input: process.stdin })) {
  const until = performance.now() + Number(line);
  while (performance.now() < until);
  tell({ awake: true });
  await sleep(1000);
  tell({ up: lb.stats().backends.pool?.server_details.s1?.up, transitions });
}
await lb.close();
