/**
 * What the control plane costs: `convey run` in proxy mode as a process of its own, before servers that are one process
 * on addresses of 127.0.0.0/8. Needs dist, so build first; 12,000 open files for the largest one.
 *
 *     node --import ./__test__/support/typescript.mjs __test__/bench/control.ts [idle seconds]
 *     node --import ./__test__/support/typescript.mjs __test__/bench/control.ts clone
 *
 * "clone" measures `git clone` and `npm start` until the dashboard answers, with what npm and cargo have in their caches.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { get, type IncomingMessage } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { CONVEY } from "../support/peers.ts";
import { cpuSeconds, type Running, start, succeed } from "../support/processes.ts";
import { serve } from "./many-servers.ts";

const IDLE_SECONDS = Number(process.argv[2]) || 20;
/** After the start: first checks, compiling, collecting garbage. */
const SETTLE_MS = 8000;
const SCRAPES = 50;
const FRAMES = 20;

if (process.send !== undefined) serve();
else if (process.argv[2] === "clone") await clone();
else await measure();

async function clone(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "convey-bench-clone-"));
  try {
    const began = performance.now();
    await succeed(["git", "clone", "--quiet", join(import.meta.dirname, "../.."), folder]);
    const npm = start(["npm", "start"], { cwd: folder });
    const [, url = ""] = await npm.waitFor(/dashboard +(http:\S+)/, 1_200_000);
    await ask(url);
    console.log(`from clone to dashboard: ${((performance.now() - began) / 1000).toFixed(0)} s`);
    await npm.stop("SIGINT", 20_000);
    npm.kill();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function measure(): Promise<void> {
  const servers = fork(process.argv[1] as string);
  const [port] = (await once(servers, "message")) as [number];
  const folder = mkdtempSync(join(tmpdir(), "convey-bench-control-"));
  const file = join(folder, "config.toml");
  try {
    for (const [frontends, count] of [
      [1, 2],
      [10, 500],
      [1000, 5000],
    ] as const) {
      writeFileSync(file, configuration(frontends, count, port));
      await visit(file, `${frontends} frontends, ${count} servers`);
      writeFileSync(file, configuration(frontends, count, port, 86_400));
      await unchecked(file);
    }
  } finally {
    servers.disconnect();
    rmSync(folder, { recursive: true });
  }
}

/** Servers are dealt out to the frontends' backends; they are checked every 5 s, as by default, unless `interval` says so. */
function configuration(frontends: number, servers: number, port: number, interval = 5): string {
  const lines = ["[stats]", "port = 0"];
  for (let f = 0; f < frontends; f++) {
    lines.push(
      `[frontends.f${f}]`,
      'listen_addr = "127.0.0.1:0"',
      `backend = "b${f}"`,
      `[backends.b${f}]`,
      `health_check_interval = ${interval}`,
      `[backends.b${f}.servers]`,
    );
    for (let s = f; s < servers; s += frontends) {
      lines.push(`s${s} = { addr = "127.1.${s >> 8}.${s & 255}:${port}" }`);
    }
  }
  return `${lines.join("\n")}\n`;
}

/** The same without health checks but the first. */
async function unchecked(file: string): Promise<void> {
  const running = start([process.execPath, CONVEY, "run", "-c", file]);
  try {
    await running.waitFor(/is ready/, 60_000);
    await sleep(SETTLE_MS);
    console.log(
      `  idle without health checks: ${(await share(running, IDLE_SECONDS)).toFixed(2)} % of a core`,
    );
  } finally {
    await running.stop();
  }
}

async function visit(file: string, what: string): Promise<void> {
  const began = performance.now();
  const running = start([process.execPath, CONVEY, "run", "-c", file]);
  try {
    const [, stats = ""] = await running.waitFor(/(http:\/\/[^/]+)\/stats/, 60_000);
    const first = probe(`${stats}/healthz`, 2000);
    await running.waitFor(/is ready/, 60_000);
    const ready = performance.now() - began;
    const { worst, asked } = await first;
    console.log(`${what}: ready in ${(ready / 1000).toFixed(2)} s`);
    console.log(`  /healthz in the 2 s after that: ${worst.toFixed(1)} ms at most of ${asked}`);
    await sleep(SETTLE_MS);
    const idle = await share(running, IDLE_SECONDS);
    console.log(`  idle: ${idle.toFixed(2)} % of a core, resident ${resident(running)} MiB`);
    const scrape = await cost(running, SCRAPES, () => ask(`${stats}/metrics`));
    console.log(
      `  a scrape: ${scrape.cpu.toFixed(1)} ms of CPU, ${scrape.wall.toFixed(1)} ms until it has come`,
    );
    await frames(running, stats);
  } finally {
    await running.stop();
  }
}

/** One question after another; the longest answer in ms. */
async function probe(url: string, ms: number): Promise<{ worst: number; asked: number }> {
  const end = performance.now() + ms;
  let [worst, asked] = [0, 0];
  while (performance.now() < end) {
    const from = performance.now();
    await ask(url);
    worst = Math.max(worst, performance.now() - from);
    asked += 1;
    await sleep(5);
  }
  return { worst, asked };
}

/** What one who looks at the dashboard costs, above nobody who does; and what /healthz waits meanwhile. */
async function frames(running: Running, stats: string): Promise<void> {
  const unseen = await share(running, FRAMES);
  const viewer = get(`${stats}/api/v1/live`, { agent: false });
  const [answer] = (await once(viewer, "response")) as [IncomingMessage];
  let count = 0;
  answer.setEncoding("utf8").on("data", (text: string) => {
    count += text.split("event: delta").length - 1;
  });
  // The full picture that comes first is no frame.
  await sleep(3000);
  count = 0;
  const seen = await share(running, FRAMES);
  const sent = Math.max(1, count);
  const { worst, asked } = await probe(`${stats}/healthz`, 10_000);
  viewer.destroy();
  console.log(
    `  a frame for one who looks at the dashboard: ${(((seen - unseen) * 10 * FRAMES) / sent).toFixed(1)} ms of CPU ` +
      `(${sent} frames); /healthz meanwhile ${worst.toFixed(1)} ms at most of ${asked}`,
  );
}

async function share(running: Running, seconds: number): Promise<number> {
  const before = cpuSeconds(running.pid);
  const began = performance.now();
  await sleep(seconds * 1000);
  return ((cpuSeconds(running.pid) - before) / ((performance.now() - began) / 1000)) * 100;
}

/** Of one of `times`, in ms; the first five are compiled and do not count. */
async function cost(
  running: Running,
  times: number,
  work: () => Promise<void>,
): Promise<{ cpu: number; wall: number }> {
  for (let i = 0; i < 5; i++) await work();
  const before = cpuSeconds(running.pid);
  const began = performance.now();
  for (let i = 0; i < times; i++) await work();
  return {
    cpu: ((cpuSeconds(running.pid) - before) * 1000) / times,
    wall: (performance.now() - began) / times,
  };
}

function ask(url: string): Promise<void> {
  return new Promise((resolve, reject) => {
    get(url, { agent: false }, (answer) => answer.on("error", reject).on("end", resolve).resume()).on(
      "error",
      reject,
    );
  });
}

function resident(running: Running): number {
  const kib = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${running.pid}/status`, "utf8"))?.[1];
  return Math.round(Number(kib ?? 0) / 1024);
}
