/**
 * What health checks cost: N servers on addresses of 127.0.0.0/8, answered by a process of their own, checked
 * every second unless told otherwise; the figure is this process's CPU time over wall time. What is asked is "tcp",
 * "http", "https", "send_expect" or "udp".
 *
 *     node --import ./__test__/support/typescript.mjs __test__/bench/health.ts [servers] [seconds] [interval ms] [what]
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import type { Ask } from "../../ts/control/health/ask.ts";
import { HealthMonitor } from "../../ts/control/health/monitor.ts";
import { certify } from "../support/certificates.ts";
import { type Asked, serve } from "./many-servers.ts";

const servers = Number(process.argv[2] ?? 1000);
const seconds = Number(process.argv[3] ?? 10);

const intervalMs = Number(process.argv[4] ?? 1000);
const asked = (process.argv[5] ?? "tcp") as Asked;

if (process.send !== undefined) serve(asked, process.argv[6] ? JSON.parse(process.argv[6]) : undefined);
else await measure();

function askOf(ca: string | undefined): Ask | undefined {
  const [send, expect] = [Buffer.from("ping"), Buffer.from("pong")];
  const tls = ca === undefined ? undefined : { name: "bench.test", verify: true, ca };
  switch (asked) {
    case "tcp":
      return undefined;
    case "http":
    case "https": {
      const statuses = [{ from: 200, to: 399 }];
      return { kind: "http", tls, method: "GET", path: "/", host: undefined, statuses, body: undefined };
    }
    case "send_expect":
      return { kind: "exchange", tls, send, expect };
    case "udp":
      return { kind: "datagram", send, expect };
  }
}

async function measure(): Promise<void> {
  const files = asked === "https" ? certify("bench.test") : undefined;
  const args = [servers, seconds, intervalMs, asked].map(String);
  const child = fork(process.argv[1] as string, [...args, ...(files ? [JSON.stringify(files)] : [])]);
  const ask = askOf(files?.ca);
  const [port] = (await once(child, "message")) as [number];
  let transitions = 0;
  const monitor = new HealthMonitor({
    onTransition: () => {
      transitions += 1;
    },
    onSuspended: (cause) => console.log(`suspended: ${cause}`),
  });
  const settings = { intervalMs, fastIntervalMs: intervalMs, timeoutMs: 2000, rise: 2, fall: 3 };
  const keys = Array.from({ length: servers }, (_, i) => `pool/s${i}`);
  monitor.setTargets(
    keys.map((key, i) => ({
      key,
      host: asked === "udp" ? "127.0.0.1" : `127.1.${i >> 8}.${i & 255}`,
      port,
      settings,
      ask,
    })),
  );
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
    `${servers} servers by ${asked} at ${intervalMs} ms: ${((user + system) / 10 / wallMs).toFixed(1)} % of a core ` +
      `(user ${(user / 10 / wallMs).toFixed(1)}, system ${(system / 10 / wallMs).toFixed(1)}), ` +
      `oldest check ${Math.max(...newest)} ms ago, ${transitions} transitions`,
  );
}

function sleep(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms));
}
