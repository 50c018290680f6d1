/**
 * What health checks cost: N servers on addresses of 127.0.0.0/8, answered by a process of their own, checked
 * every second; the figure is this process's CPU time over wall time.
 *
 *     node --import ./__test__/support/typescript.mjs __test__/bench/health.ts [servers] [seconds]
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { HealthMonitor } from "../../ts/control/health/monitor.ts";
import { serve } from "./many-servers.ts";

const servers = Number(process.argv[2] ?? 1000);
const seconds = Number(process.argv[3] ?? 10);

if (process.send !== undefined) serve();
else await measure();

async function measure(): Promise<void> {
  const child = fork(process.argv[1] as string);
  const [port] = (await once(child, "message")) as [number];
  let transitions = 0;
  const monitor = new HealthMonitor({
    onTransition: () => {
      transitions += 1;
    },
    onSuspended: (cause) => console.log(`suspended: ${cause}`),
  });
  const settings = { intervalMs: 1000, fastIntervalMs: 1000, timeoutMs: 2000, rise: 2, fall: 3 };
  const keys = Array.from({ length: servers }, (_, i) => `pool/s${i}`);
  monitor.setTargets(keys.map((key, i) => ({ key, host: `127.1.${i >> 8}.${i & 255}`, port, settings })));
  await sleep(3000);
  const cpu = process.cpuUsage();
  const startedAt = performance.now();
  await sleep(seconds * 1000);
  const { user, system } = process.cpuUsage(cpu);
  const wallMs = performance.now() - startedAt;
  const newest = keys.map((key) => Date.now() - (monitor.lastCheck(key)?.at.getTime() ?? 0));
  monitor.close();
  child.disconnect();
  console.log(
    `${servers} servers at 1 s: ${((user + system) / 10 / wallMs).toFixed(1)} % of a core ` +
      `(user ${(user / 10 / wallMs).toFixed(1)}, system ${(system / 10 / wallMs).toFixed(1)}), ` +
      `oldest check ${Math.max(...newest)} ms ago, ${transitions} transitions`,
  );
}

function sleep(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms));
}
