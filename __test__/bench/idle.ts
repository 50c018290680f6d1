/** Connections that were used once and then stay open: what they hold, and what they cost while nothing happens. */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { memoryBytes, type Running, residentBytes, start, threadSeconds } from "../support/processes.ts";
import type { Visit } from "./figures.ts";
import type { Standing } from "./works.ts";

/** Before memory is read: what was needed to open the connections is given back. */
const SETTLED_MS = 1500;

/** Many connections are begun so many at a time, one after another would take long. */
const AT_ONCE = 16;

/** User-space memory an idle pair holds; what the kernel holds for two sockets is the same for every peer. */
export async function idlePair(at: Standing, pairs: number): Promise<number> {
  await sleep(500);
  const before = memoryBytes(at.pids);
  await using _holder = await held(at, pairs, 1);
  await sleep(SETTLED_MS);
  return (memoryBytes(at.pids) - before) / pairs;
}

/** The same with more of them, and the CPU of `seconds` in which nothing happens. */
export async function holdMany(at: Standing, pairs: number, seconds: number): Promise<Visit["figures"]> {
  await sleep(500);
  const before = { pss: memoryBytes(at.pids), rss: residentBytes(at.pids), kernel: kernelBytes() };
  await using _holder = await held(at, pairs, AT_ONCE);
  await sleep(SETTLED_MS);
  const kernel = { many_idle_kernel_bytes_per_pair: (kernelBytes() - before.kernel) / pairs };
  if (at.pids.length === 0) return kernel;
  const memory = {
    many_idle_pss_bytes_per_pair: (memoryBytes(at.pids) - before.pss) / pairs,
    many_idle_rss_bytes_per_pair: (residentBytes(at.pids) - before.rss) / pairs,
  };
  const used = threadSeconds(at.pids);
  const began = performance.now();
  await sleep(seconds * 1000);
  const took = (performance.now() - began) / 1000;
  return { ...kernel, ...memory, many_idle_cpu_ms_per_s: (used() * 1000) / took };
}

async function held(at: Standing, pairs: number, atOnce: number): Promise<Running> {
  const from = at.from.length > 0 ? ["--from", at.from.join(",")] : [];
  const hold = [
    "hold",
    "--connect",
    at.target,
    "--connections",
    String(pairs),
    "--at-once",
    String(atOnce),
    ...from,
  ];
  const holder = start([...at.client, ...hold], { stdin: true });
  try {
    await holder.waitFor(/"event":"ready"/, 30_000 + 3 * pairs);
    return holder;
  } catch (error) {
    await holder[Symbol.asyncDispose]();
    throw error;
  }
}

/** What the kernel holds in slabs, in bytes, over the whole machine: sockets are in it, at both ends as well. */
function kernelBytes(): number {
  return Number(/^Slab:\s+(\d+) kB/m.exec(readFileSync("/proc/meminfo", "utf8"))?.[1] ?? 0) * 1024;
}
