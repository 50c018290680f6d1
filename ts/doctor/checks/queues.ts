/** Over how many cores a link's packets are spread. */
import { type Found, notice, ok } from "../finding.ts";
import { type Check, type Look, PACKET_MODES } from "../look.ts";

export const queues: Check = {
  name: "queues",
  modes: PACKET_MODES,
  find: ({ host, report }) =>
    // What comes by virtual links is worked on where it was sent.
    cards(report).flatMap(({ name }): Found[] => {
      const folder = `/sys/class/net/${name}/queues`;
      const receiving = host.list(folder).filter((queue) => queue.startsWith("rx-"));
      const cores = cpus(host.read("/sys/devices/system/cpu/online") ?? "0");
      if (receiving.length === 0) return [];
      const masks = receiving.map((queue) => (host.read(`${folder}/${queue}/rps_cpus`) ?? "").trim());
      const spread = receiving.length > 1 || masks.some((mask) => /[1-9a-f]/.test(mask));
      const evidence = `${folder} has ${receiving.length} receive ${receiving.length === 1 ? "queue" : "queues"}, rps_cpus ${masks[0]}; ${cores} ${cores === 1 ? "core is" : "cores are"} online`;
      if (spread || cores === 1) return [ok(`${name} spreads its packets`, evidence, name)];
      return [
        notice({
          subject: name,
          title: `${name} has one receive queue`,
          evidence,
          consequence: "One core takes all packets that arrive there, whatever the number of workers.",
          remedy: `ethtool -L ${name} combined ${cores} || echo ${mask(cores)} > ${folder}/rx-0/rps_cpus`,
        }),
      ];
    }),
};

function cards(report: Look["report"]): { name: string }[] {
  return (report?.links ?? []).filter(({ kind }) => kind === "");
}

/** How many of "0-3,6" there are. */
function cpus(text: string): number {
  const parts = text
    .trim()
    .split(",")
    .map((part) => part.split("-").map(Number));
  return parts.reduce((sum, [from = 0, to = from]) => sum + to - from + 1, 0);
}

/** A mask of the first cores, in words of 32. */
function mask(cores: number): string {
  const hex = ((1n << BigInt(cores)) - 1n).toString(16);
  const words = hex.padStart(Math.ceil(hex.length / 8) * 8, "0").match(/.{8}/g) ?? [];
  return words.join(",").replace(/^0+(?=.)/, "");
}
