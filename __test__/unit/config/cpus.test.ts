/** How many threads a cgroup leaves room for. */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { availableCpus, cgroupQuota } from "../../../ts/config/cpus.ts";

/** What the quota is on a host with these files. */
function quota(files: Record<string, string>): { quota: number | undefined; cpus: number } {
  const root = mkdtempSync(join(tmpdir(), "convey-cpus-"));
  try {
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      writeFileSync(join(root, path), text);
    }
    return { quota: cgroupQuota(root), cpus: availableCpus(root) };
  } finally {
    rmSync(root, { recursive: true });
  }
}

const V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
const V1 = "33 23 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n";

test("the least quota of a cgroup and of those above it counts", () => {
  const at = "sys/fs/cgroup";
  const files = {
    "proc/self/mountinfo": `21 1 0:19 / /proc rw - proc proc rw\n${V2}`,
    "proc/self/cgroup": "0::/kubepods/pod1/container\n",
    [`${at}/kubepods/cpu.max`]: "max 100000\n",
    [`${at}/kubepods/pod1/cpu.max`]: "150000 100000\n",
    [`${at}/kubepods/pod1/container/cpu.max`]: "400000 100000\n",
  };
  expect(quota(files)).toEqual({ quota: 1.5, cpus: Math.min(2, availableParallelism()) });
  expect(quota({ ...files, [`${at}/kubepods/pod1/cpu.max`]: "20000 100000\n" })).toEqual({
    quota: 0.2,
    cpus: 1,
  });
  expect(quota({ ...files, [`${at}/kubepods/pod1/cpu.max`]: "max 100000\n" }).quota).toBe(4);
});

test("in a container's namespace the cgroup is what is mounted", () => {
  const files = {
    "proc/self/mountinfo": V2.replace(" / /sys", " /docker/a\\040b /sys"),
    "proc/self/cgroup": "0::/docker/a b/inner\n",
    "sys/fs/cgroup/cpu.max": "300000 100000\n",
    "sys/fs/cgroup/inner/cpu.max": "50000 50000\n",
  };
  expect(quota(files).quota).toBe(1);
  expect(quota({ ...files, "proc/self/cgroup": "0::/\n" }).quota).toBe(3);
});

test("cgroups of version 1 count, beside an empty hierarchy of version 2", () => {
  const at = "sys/fs/cgroup/cpu,cpuacct/jobs";
  const files = {
    "proc/self/mountinfo": V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified") + V1,
    "proc/self/cgroup": "4:memory:/other\n3:cpu,cpuacct:/jobs\n1:name=systemd:/x\n0::/\n",
    [`${at}/cpu.cfs_quota_us`]: "250000\n",
    [`${at}/cpu.cfs_period_us`]: "100000\n",
  };
  expect(quota(files).quota).toBe(2.5);
  expect(quota({ ...files, [`${at}/cpu.cfs_quota_us`]: "-1\n" }).quota).toBeUndefined();
});

test("without a quota, or with files nobody can make sense of, there are as many as cores", () => {
  const cores = { quota: undefined, cpus: availableParallelism() };
  expect(quota({})).toEqual(cores);
  const odd = { "proc/self/mountinfo": `\n - \n${V2}`, "proc/self/cgroup": "0::\nx\n0::/../..\n" };
  expect(quota({ ...odd, "sys/fs/cgroup/cpu.max": "lots\n" })).toEqual(cores);
  expect(quota({ ...odd, "sys/fs/cgroup/cpu.max": "0 0\n" })).toEqual(cores);
});

test("a quota of the kernel's is found by a process in that cgroup", (context) => {
  const folder = `/sys/fs/cgroup/cpu/convey-test-${process.pid}`;
  try {
    mkdirSync(folder);
    writeFileSync(join(folder, "cpu.cfs_quota_us"), "130000");
    writeFileSync(join(folder, "cpu.cfs_period_us"), "100000");
  } catch (error) {
    context.skip(`no cgroup of version 1 can be made here: ${error}`);
  }
  try {
    const module = pathToFileURL(join(import.meta.dirname, "../../../dist/config/cpus.js")).href;
    const script = `echo $$ > ${folder}/cgroup.procs && exec "$0" --input-type=module -e "$1"`;
    const asked = `import { cgroupQuota } from "${module}"; console.log(cgroupQuota());`;
    expect(execFileSync("sh", ["-c", script, process.execPath, asked]).toString().trim()).toBe("1.3");
  } finally {
    rmdirSync(folder);
  }
});
