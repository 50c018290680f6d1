/** The sections of the packet bench: each measured once. */
import { exampleLines } from "./examples.ts";
import type { Once, PacketOptions } from "./options.ts";
import { BALANCER_CORE } from "./peers.ts";
import { programs } from "./programs.ts";
import { reload } from "./reload.ts";
import { printed, type Section } from "./section.ts";
import { synFlood } from "./synflood.ts";

const SECTIONS: Readonly<Record<Once, (options: PacketOptions) => Promise<Section>>> = {
  reload: ({ quick }) => reload(quick),
  synflood: ({ quick }) => synFlood(quick),
  programs: ({ quick }) => programs(quick),
  scale: async ({ quick }) => {
    const flows = quick ? ["1000000"] : [];
    const title = "Many flows, and a change of 1,000 servers: begun, looked up and swept without any I/O";
    return printed("scale", title, await exampleLines("convey-xdp", "bench_scale", flows, BALANCER_CORE));
  },
  tables: async ({ quick }) => {
    const lines = [
      ...(await exampleLines("convey-engine", "bench_conntrack", [], BALANCER_CORE)),
      ...(await exampleLines(
        "convey-engine",
        "bench_process",
        quick ? ["--quick-check"] : [],
        BALANCER_CORE,
      )),
    ];
    return printed("tables", "The portable engine's tables and packet path, without any I/O", lines);
  },
};

/** Measures the sections that were asked for. */
export async function* once(options: PacketOptions): AsyncGenerator<Section> {
  for (const [name, measure] of Object.entries(SECTIONS)) {
    if (!options.works.some((work) => work === name)) continue;
    console.error(name);
    yield await measure(options);
  }
}
