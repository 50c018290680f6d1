/** What balancers of a lab leave on the host when they are killed: noted in a folder of the lab's own, and taken back. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { CONVEY } from "../../support/peers.ts";
import { finish, succeed } from "../../support/processes.ts";

/** Words to put before the product's command line, so that it notes what it changes in `folder` and nowhere else. */
export function noting(folder: string): string[] {
  return ["env", `CONVEY_STATE_DIR=${join(folder, "state")}`, `CONVEY_BPFFS=${join(folder, "bpf")}`];
}

/** Makes place in `folder` for what programs in the kernel forward by: it is seen from every namespace. */
export async function mountPins(folder: string): Promise<void> {
  const place = join(folder, "bpf");
  await succeed(["sh", "-ec", `mkdir "${place}"; mount -t bpf bpf "${place}"`]);
}

/** What is pinned in `folder`. */
export function pinned(folder: string): string[] {
  try {
    return readdirSync(join(folder, "bpf"), { recursive: true }).map(String);
  } catch {
    return [];
  }
}

/**
 * Has the product itself take back what those killed have left: flow tables in shared memory outlive their process and
 * the lab's namespaces. `prefix` is what they were started with, so nobody else's is touched.
 */
export async function cleanUp(prefix: readonly string[]): Promise<void> {
  const folder = prefix.find((word) => word.startsWith("CONVEY_STATE_DIR="))?.split("=")[1] ?? "";
  let noted: string[] = [];
  try {
    noted = readdirSync(folder);
  } catch {
    // No balancer ever noted a thing.
  }
  if (noted.some((name) => name.endsWith(".json")))
    await succeed([...prefix, process.execPath, CONVEY, "cleanup"]);
  await finish([
    "umount",
    "-l",
    prefix.find((word) => word.startsWith("CONVEY_BPFFS="))?.split("=")[1] ?? "",
  ]);
}
