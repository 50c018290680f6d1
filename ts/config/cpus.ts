/**
 * How many threads may run at once: cores that this process may use, or fewer where a cgroup gives it less time than
 * that. A quota of 1.5 cores is used by two threads; three would each be stopped half of the time.
 */
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join, posix } from "node:path";

/** At least 1. `root` is where the files of the kernel are looked for. */
export function availableCpus(root = "/"): number {
  const quota = cgroupQuota(root);
  const cores = availableParallelism();
  return quota === undefined ? cores : Math.max(1, Math.min(cores, Math.ceil(quota)));
}

/** The least quota in cores of the cgroup of this process and those above it; undefined where there is none. */
export function cgroupQuota(root = "/"): number | undefined {
  const read = (path: string): string | undefined => {
    try {
      return readFileSync(join(root, path), "utf8");
    } catch {
      return undefined;
    }
  };
  const mounts = cgroupMounts(read("proc/self/mountinfo") ?? "");
  const quotas: number[] = [];
  for (const line of (read("proc/self/cgroup") ?? "").split("\n")) {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers === undefined || path === undefined) continue;
    const isV2 = controllers === "";
    if (!isV2 && !controllers.split(",").includes("cpu")) continue;
    const mount = mounts.find((it) => it.isV2 === isV2);
    if (mount === undefined) continue;
    for (const folder of upwards(mount, path)) {
      const quota = isV2 ? quotaV2(folder, read) : quotaV1(folder, read);
      if (quota !== undefined) quotas.push(quota);
    }
  }
  return quotas.length === 0 ? undefined : Math.min(...quotas);
}

type Mount = { isV2: boolean /** What of the hierarchy is mounted. */; root: string; at: string };
type Read = (path: string) => string | undefined;

/** Where the hierarchies with CPU time are mounted. */
function cgroupMounts(mountinfo: string): Mount[] {
  return mountinfo.split("\n").flatMap((line): Mount[] => {
    const [before = "", after = ""] = line.split(" - ");
    const [, , , root = "", at = ""] = before.split(" ");
    const [type, , options = ""] = after.split(" ");
    const isCpu = type === "cgroup" && options.split(",").includes("cpu");
    return type === "cgroup2" || isCpu ? [{ isV2: type === "cgroup2", root: text(root), at: text(at) }] : [];
  });
}

/** Spaces and the like are octal in mountinfo. */
const text = (escaped: string): string =>
  escaped.replace(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(Number.parseInt(code, 8)));

/** The folders of a cgroup and of those above it, as far as they are mounted. In a container its own is the root. */
function upwards({ root, at }: Mount, path: string): string[] {
  const inside = path === root || path.startsWith(root === "/" ? "/" : `${root}/`);
  let relative = inside ? posix.relative(root, path) : "";
  const folders = [];
  for (;;) {
    folders.push(posix.join(at, relative));
    if (relative === "" || relative === ".") return folders;
    relative = posix.dirname(relative);
    if (relative === ".") relative = "";
  }
}

function quotaV2(folder: string, read: Read): number | undefined {
  const [quota, period] = (read(posix.join(folder, "cpu.max")) ?? "").trim().split(" ").map(Number);
  return cores(quota, period);
}

function quotaV1(folder: string, read: Read): number | undefined {
  const [quota, period] = ["cpu.cfs_quota_us", "cpu.cfs_period_us"].map((file) =>
    Number((read(posix.join(folder, file)) ?? "").trim()),
  );
  return cores(quota, period);
}

/** "max" and -1 are no quota. */
const cores = (quota = Number.NaN, period = Number.NaN): number | undefined =>
  quota > 0 && period > 0 ? quota / period : undefined;
