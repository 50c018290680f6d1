/**
 * A process that runs out of file descriptors under a running balancer (its server is the argument), stays so
 * for two seconds, and prints what was made of it as one line of JSON. Start it with a low hard limit.
 */
import { closeSync, openSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { createBalancer } from "../../ts/index.ts";

const lb = await createBalancer({
  // As many as fit, or the low limit itself is worth a warning.
  limits: { max_connections: 10 },
  frontends: { web: { listen_addr: "127.0.0.1:0", backend: "pool" } },
  backends: {
    pool: {
      health_check_interval: 1,
      health_check_fall: 1,
      servers: { s1: { addr: process.argv[2] as string } },
    },
  },
});
const events: string[] = [];
void (async () => {
  for await (const event of lb.events()) events.push(event.type === "engine" ? event.kind : event.type);
})();
await sleep(300);
const taken: number[] = [];
try {
  for (;;) taken.push(openSync("/dev/null", "r"));
} catch {
  // None left, as intended.
}
await sleep(2500);
const up = lb.stats().backends.pool?.server_details.s1?.up;
for (const fd of taken) closeSync(fd);
const freedAt = Date.now();
await sleep(2500);
const last = lb.stats().backends.pool?.server_details.s1?.last_check;
const checkedAgain = last?.ok === true && Date.parse(last.at) > freedAt;
console.log(JSON.stringify({ taken: taken.length > 0, up, checkedAgain, events }));
await lb.close();
