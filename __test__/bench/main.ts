/** `npm run bench`: proxy mode beside HAProxy, nginx and the plain path; `--mode packet`: the packet modes. */
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { dirname } from "node:path";
import { finish } from "../support/processes.ts";
import { lacking } from "../support/requirements.ts";
import { HELP, isPacket, type Options, type Profile, parseOptions } from "./options.ts";
import { benchPackets } from "./packet/main.ts";
import { type Peer, peers } from "./peers.ts";
import { judge, markdown, type Series } from "./report.ts";
import { type Visit, visit } from "./visit.ts";

/** Requests a second of the half-load run when nothing was measured to take half of. */
const FALLBACK_RATE = 10_000;

const argv = process.argv.slice(2);
if (isPacket(argv)) await benchPackets(argv);
else await proxies(argv);

async function proxies(args: string[]): Promise<void> {
  const options = parseOptions(args);
  if (options === undefined) console.log(HELP);
  else await bench(options);
}

async function bench(options: Options): Promise<void> {
  const chosen = choose(options.peers);
  const reason = lacking({ root: true, tools: ["ip", "taskset", "ethtool"] });
  if (reason !== undefined) throw new Error(`the bench ${reason}`);
  const all: Series[] = [];
  for (const profile of options.profiles) {
    for (const offloads of options.offloads) {
      const halfRate = options.works.includes("half")
        ? await half(chosen, profile, offloads, options)
        : FALLBACK_RATE;
      const series: Series = { profile, offloads, halfRate, rounds: [] };
      all.push(series);
      for (let n = 1; n <= options.rounds; n++) {
        series.rounds.push(await round(chosen, series, options, `${profile} ${n}/${options.rounds}`));
        // Written after every round: a bench cut short still leaves what it has.
        await save(all, chosen, options);
      }
    }
  }
  console.log(markdown(all, names(chosen)));
  console.error(`\nfigures: ${options.out}`);
}

function choose(wanted: readonly string[] | undefined): Peer[] {
  const known = peers(process.env.CONVEY_BENCH_PEERS);
  const unknown = wanted?.find((name) => !known.some((peer) => peer.name === name));
  if (unknown !== undefined) throw new Error(`no peer is named "${unknown}"; use ${names(known).join(", ")}`);
  const chosen = known.filter((peer) => wanted === undefined || wanted.includes(peer.name));
  return chosen.filter((peer) => {
    const tool = peer.name.startsWith("haproxy")
      ? "haproxy"
      : peer.name.startsWith("nginx")
        ? "nginx"
        : undefined;
    const reason = tool && lacking({ tools: [tool] });
    if (reason) console.error(`left out: ${peer.name} ${reason}`);
    return !reason;
  });
}

/** Half of what HAProxy (or the first peer there is) does at saturation: the same load for everyone. */
async function half(
  chosen: readonly Peer[],
  profile: Profile,
  offloads: boolean,
  options: Options,
): Promise<number> {
  const yardstick = chosen.find((peer) => peer.name === "haproxy") ?? chosen[0];
  if (yardstick === undefined) return FALLBACK_RATE;
  const seen = await visit(yardstick, profile, offloads, { ...options, works: ["keepalive"] }, FALLBACK_RATE);
  return (seen.figures.keepalive_requests_per_s ?? 2 * FALLBACK_RATE) / 2;
}

/** There and back, with the plain path once in the middle. */
async function round(
  chosen: readonly Peer[],
  series: Series,
  options: Options,
  label: string,
): Promise<Visit[]> {
  const balancers = chosen.filter((peer) => peer.command !== undefined);
  const plain = chosen.filter((peer) => peer.command === undefined);
  const visits: Visit[] = [];
  for (const peer of [...balancers, ...plain, ...balancers.toReversed()]) {
    console.error(`${label}: ${peer.name}`);
    visits.push(await visit(peer, series.profile as Profile, series.offloads, options, series.halfRate));
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
  writeFileSync(
    options.out,
    `${JSON.stringify({ machine, versions, options, verdicts, series: all }, null, 1)}\n`,
  );
  writeFileSync(options.out.replace(/(\.json)?$/, ".md"), `${markdown(all, names(chosen))}\n`);
}

function names(list: readonly Peer[]): string[] {
  return list.map((peer) => peer.name);
}
