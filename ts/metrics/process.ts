/** Metrics of the process that the control plane runs in; its data plane's threads are counted in. */
import { statSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { by, counter, type Family, gauge, one } from "./family.ts";

export async function processFamilies(): Promise<Family[]> {
  const { user, system } = process.cpuUsage();
  const { active, idle } = performance.eventLoopUtilization();
  const { rss, heapUsed } = process.memoryUsage();
  const [open, most] = await Promise.all([openDescriptors(), descriptorLimit()]);
  return [
    gauge(
      "convey_process_start_time_seconds",
      "When the process was started, in seconds since 1970.",
      one(performance.timeOrigin / 1000),
    ),
    counter("convey_process_cpu_seconds_total", "CPU time of all threads.", one((user + system) / 1e6)),
    gauge("convey_process_resident_memory_bytes", "Memory of the process, data plane included.", one(rss)),
    gauge("convey_process_heap_bytes", "Memory of JavaScript objects.", one(heapUsed)),
    gauge("convey_process_open_fds", "Open file descriptors.", one(open)),
    gauge("convey_process_max_fds", "File descriptors that the process may have.", one(most)),
    counter(
      "convey_process_event_loop_seconds_total",
      "Time of the control plane's event loop: active with work, or idle.",
      by("state", { active: active / 1000, idle: idle / 1000 }),
    ),
  ];
}

async function openDescriptors(): Promise<number | undefined> {
  try {
    // Since Linux 6.2 the size is the number; listing a proxy's descriptors takes milliseconds.
    const { size } = statSync("/proc/self/fd");
    return size > 0 ? size : (await readdir("/proc/self/fd")).length;
  } catch {
    return undefined;
  }
}

async function descriptorLimit(): Promise<number | undefined> {
  const limits = await readFile("/proc/self/limits", "utf8").catch(() => "");
  const soft = /^Max open files +(\d+)/m.exec(limits)?.[1];
  return soft === undefined ? undefined : Number(soft);
}
