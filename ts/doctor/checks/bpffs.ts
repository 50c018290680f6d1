/** Whether forwarding can outlive the process: programs and tables are pinned in a BPF file system. */
import { ok, warning } from "../finding.ts";
import { type Check, engineTaken, isKernelEngine, PACKET_MODES } from "../look.ts";

export const bpffs: Check = {
  name: "bpffs",
  modes: PACKET_MODES,
  find(look) {
    if (!isKernelEngine(engineTaken(look)))
      return [ok("a BPF file system is not needed", "user space forwards")];
    const place = process.env.CONVEY_BPFFS || "/sys/fs/bpf";
    const mounts = look.host.read("/proc/self/mounts") ?? "";
    // The last one mounted on a place is the one that is seen.
    const last = mounts
      .split("\n")
      .filter((line) => line.split(" ")[1] === place)
      .at(-1)
      ?.split(" ")[2];
    const evidence = `/proc/self/mounts: ${place} is ${last ?? "no mount"}`;
    if (last === "bpf") return [ok("forwarding outlives the process", evidence)];
    return [
      warning({
        subject: place,
        title: `${place} is no BPF file system`,
        evidence,
        consequence: "When the process ends, forwarding and all flows end with it.",
        remedy: `mkdir -p ${place}; mount -t bpf bpf ${place}`,
      }),
    ];
  },
};
