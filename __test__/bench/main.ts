/** `npm run bench`: proxy mode beside HAProxy, nginx and the plain path; `--mode packet`: the packet modes. */
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { dirname } from "node:path";
import { finish } from "../support/processes.ts";
import { lacking } from "../support/requirements.ts";
import { attempt } from "./attempt.ts";
import type { Visit } from "./figures.ts";
import { halfLoad } from "./half-load.ts";
import { interruptible } from "./interruption.ts";
import { HELP, isPacket, type Options, type Profile, parseOptions } from "./options.ts";
import { visitingOrder } from "./order.ts";
import { benchPackets } from "./packet/main.ts";
import { type Peer, peers } from "./peers.ts";
import { Progress } from "./progress.ts";
import { compare, judge, markdown, QUICK, type Series } from "./report.ts";
import { visit } from "./visit.ts";

const argv = process.argv.slice(2);
await interruptible(() => (isPacket(argv) ? benchPackets(argv) : proxies(argv)));

async function proxies(args: string[]): Promise<void> {
  const options = parseOptions(args);
  if (options === undefined) console.log(HELP);
  else await bench(options);
}

async function bench(options: Options): Promise<void> {
  const chosen = choose(options.peers);
  const priority = options.works.includes("mixed") ? ["chrt"] : [];
  const reason = lacking({ root: true, tools: ["ip", "taskset", "ethtool", ...priority] });
  if (reason !== undefined) throw new Error(`the bench ${reason}`);
  if (options.quick) console.error(QUICK);
  const all: Series[] = [];
  for (const profile of options.profiles) {
    for (const offloads of options.offloads) {
      const half = await halfLoad(chosen, profile, offloads, options);
      const series: Series = { profile, offloads, half, rounds: [] };
      all.push(series);
      const progress = new Progress(options.rounds);
      for (let n = 1; n <= options.rounds; n++) {
        series.rounds.push(await round(chosen, series, options, n));
        // Written after every round: a bench cut short still leaves what it has.
        await save(all, chosen, options);
        progress.ended(n);
      }
    }
  }
  console.log(markdown(all, names(chosen), options));
  console.error(`\nfigures: ${options.out}`);
}

function choose(wanted: readonly string[] | undefined): Peer[] {
  const known = peers(process.env.CONVEY_BENCH_PEERS);
  const unknown = wanted?.find((name) => !known.some((peer) => peer.name === name));
  if (unknown !== undefined) throw new Error(`no peer is named "${unknown}"; use ${names(known).join(", ")}`);
  const chosen = known.filter((peer) => wanted === undefined || wanted.includes(peer.name));
  return chosen.filter((peer) => {
    const reason = peer.tool && lacking({ tools: [peer.tool] });
    if (reason) console.error(`left out: ${peer.name} ${reason}`);
    return !reason;
  });
}

async function round(chosen: readonly Peer[], series: Series, options: Options, n: number): Promise<Visit[]> {
  const balancers = chosen.filter((peer) => peer.command !== undefined);
  const plain = chosen.filter((peer) => peer.command === undefined);
  const rate = "reason" in series.half ? undefined : series.half.requestsPerS;
  const visits: Visit[] = [];
  for (const peer of visitingOrder(balancers, plain, n)) {
    console.error(`${series.profile} ${n}/${options.rounds}: ${peer.name}`);
    const seen = await attempt(
      n,
      () => visit(peer, series.profile as Profile, series.offloads, options, rate),
      (missing) => ({ peer: peer.name, figures: {}, missing, failures: 0 }),
    );
    visits.push(seen);
  }
  return visits;
}

async function save(all: readonly Series[], chosen: readonly Peer[], options: Options): Promise<void> {
  mkdirSync(dirname(options.out), { recursive: true });
  const machine = {
    kernel: release(),
    cpus: cpus().length,
    model: cpus()[0]?.model ?? "",
    node: process.version,
  };
  const versions = {
    haproxy: (await finish(["haproxy", "-v"])).stdout.split("\n")[0] ?? "",
    nginx: (await finish(["nginx", "-v"])).stderr.trim(),
  };
  const verdicts = all.map((series) => judge(series, names(chosen)));
  const comparisons = all.map((series) => compare(series, names(chosen)));
  writeFileSync(
    options.out,
    `${JSON.stringify({ machine, versions, options, verdicts, comparisons, series: all }, null, 1)}\n`,
  );
  writeFileSync(options.out.replace(/(\.json)?$/, ".md"), `${markdown(all, names(chosen), options)}\n`);
}

function names(list: readonly Peer[]): string[] {
  return list.map((peer) => peer.name);
}
