/**
 * Floods of small packets at the highest rate that arrives: a generator that sends as fast as it can fills every
 * queue, and what is counted then is how a receiver overflows, which for kernel forwarding is less than half of what
 * it forwards when it is not drowned.
 */
import { type Running, succeed } from "../../support/processes.ts";
import { goOn } from "../interruption.ts";
import { STOLEN, unstolen } from "../steal.ts";
import { benchExample } from "./examples.ts";
import { net, type WireLab } from "./lab.ts";
import type { PacketOptions } from "./options.ts";
import { BALANCER_CORE, type Forwarder, OTHER_CORE } from "./peers.ts";
import { highestRate } from "./search.ts";
import type { Guesses, PacketVisit } from "./visit.ts";

/** "small" has runs of a flow, which an engine may take together; in "scattered" no two of a flow are behind each other. */
export type Flood = "small" | "scattered";

export const FLOODS: readonly Flood[] = ["small", "scattered"];

const RUN: Readonly<Record<Flood, number>> = { small: 64, scattered: 1 };

/** More than any generator sends; it then tells what it can. */
const UNLIMITED = 1e8;

/** No forwarder is as slow as this, in packets a second. */
const FLOOR = 5_000;

/** After the search a longer run must hold; otherwise the rate is lowered by this share and tried again. */
const BACK = 0.97;
const BACK_TIMES = 8;

/** Searches the rate and measures at it. */
export async function flood(
  lab: WireLab,
  peer: Forwarder,
  kind: Flood,
  options: PacketOptions,
  guesses: Guesses,
  result: PacketVisit,
): Promise<void> {
  const run = (rate: number, seconds: number) =>
    unstolen(() => offer(lab, peer, kind, options, rate, seconds));
  const ceiling = await run(UNLIMITED, options.probeSeconds);
  if (ceiling === undefined) {
    result.missing.push(`${kind}: ${STOLEN}`);
    return;
  }
  const key = `${peer.name} ${kind}`;
  const known = guesses.get(key);
  const found = await highestRate(
    async (rate) => {
      const seen = await run(rate, options.probeSeconds);
      return seen !== undefined && seen.loss <= options.loss;
    },
    {
      guess: known ?? ceiling.offered / 2,
      step: known === undefined ? 1.5 : 1.15,
      floor: FLOOR,
      ceiling: ceiling.offered,
      precision: options.precision,
    },
  );
  if (found === undefined) {
    result.missing.push(`${kind}: packets are lost even at ${FLOOR}/s`);
    return;
  }
  let rate = found.rate;
  for (let tries = 0; tries < BACK_TIMES; tries++) {
    const seen = await run(rate, options.seconds);
    if (seen !== undefined && seen.loss <= options.loss) {
      guesses.set(key, rate);
      if (found.atCeiling) result.atCeiling.push(kind);
      result.figures[`${kind}_kpps`] = seen.delivered / seen.seconds / 1000;
      result.figures[`${kind}_core_ns_per_packet`] = (seen.busySeconds / seen.delivered) * 1e9;
      result.figures[`${kind}_core_used`] = seen.busySeconds / seen.seconds;
      result.figures[`${kind}_generator_kpps`] = ceiling.offered / 1000;
      return;
    }
    rate *= BACK;
  }
  result.missing.push(`${kind}: no rate held for ${options.seconds} s`);
}

interface Seen {
  /** Packets a second that left the generator. */
  offered: number;
  delivered: number;
  /** Share of what was sent that had not arrived when sending ended. */
  loss: number;
  seconds: number;
  /** Busy time of the balancer's core. */
  busySeconds: number;
  steal_share: number;
}

async function offer(
  lab: WireLab,
  peer: Forwarder,
  kind: Flood,
  options: PacketOptions,
  rate: number,
  seconds: number,
): Promise<Seen> {
  goOn();
  const generator = await inject(lab, peer, options.flows, RUN[kind], seconds, rate);
  const counters = `cat /sys/class/net/front/statistics/rx_packets; grep -E '^cpu(${BALANCER_CORE})? ' /proc/stat`;
  // One shell, so that the counters are read at once when sending has ended: what waits in a queue then is behind.
  const script = `${counters}; ${generator.join(" ")}; ${counters}`;
  return parseSeen(await succeed(lab.at("client", "sh", "-ec", script)));
}

/** Reads what the counters and the generator printed. */
export function parseSeen(text: string): Seen {
  const [before, sending, after] = text.split(/^(sent .*)\n/m);
  const [, sent, seconds] = /sent (\d+) in ([\d.]+) s/.exec(sending ?? "") ?? [];
  if (before === undefined || after === undefined || sent === undefined)
    throw new Error(`no flood in: ${text}`);
  const [then, now] = [parseCounters(before), parseCounters(after)];
  const delivered = now.packets - then.packets;
  return {
    offered: Number(sent) / Number(seconds),
    delivered,
    // A stray packet, as a neighbour solicitation, counts too; there is no less than no loss.
    loss: Math.max(0, 1 - delivered / Number(sent)),
    seconds: Number(seconds),
    busySeconds: (now.busy - then.busy) / 100,
    steal_share: (now.steal - then.steal) / (now.machine - then.machine),
  };
}

function parseCounters(text: string): { packets: number; steal: number; machine: number; busy: number } {
  const [packets, ...lines] = text.trim().split("\n");
  // user nice system idle iowait irq softirq steal, in 1/100 s
  const [machine, core] = lines.map((line) => line.split(/\s+/).slice(1, 9).map(Number));
  if (machine?.length !== 8 || core?.length !== 8) throw new Error(`no counters in: ${text}`);
  const all = (ticks: readonly number[]) => ticks.reduce((sum, n) => sum + n, 0);
  const idle = (core[3] ?? 0) + (core[4] ?? 0) + (core[7] ?? 0);
  return {
    packets: Number(packets),
    steal: machine[7] ?? 0,
    machine: all(machine),
    busy: all(core) - idle,
  };
}

async function inject(
  lab: WireLab,
  peer: Forwarder,
  flows: number,
  run: number,
  seconds: number,
  rate: number,
): Promise<string[]> {
  return [
    // A priority of its own: a generator that has to wait for neighbours sends in bursts.
    ...["chrt", "--fifo", "5", "taskset", "-c", String(OTHER_CORE)],
    ...[await benchExample("convey-xdp", "generate"), "front"],
    ...["--seconds", String(seconds), "--flows", String(flows), "--run", String(run)],
    ...["--rate", rate.toFixed(0), "--from", net.client],
    ...["--to", `${await lab.mac("balancer", "front")}/${peer.floodTo}:${net.udpPort}`],
  ];
}

/** What the interface counts is worth something only when it is the right packet. */
export async function proveRewrite(
  lab: WireLab,
  peer: Forwarder,
  running: Running | undefined,
): Promise<void> {
  const command = (await inject(lab, peer, 4, 1, 0.05, FLOOR)).join(" ");
  await lab.proveArrival(
    () => lab.sh("client", command),
    () => `${peer.name}\n${running?.output() ?? ""}`,
  );
}
