/** The bench of the packet modes: the portable engine beside a one-call forwarder, nft DNAT and plain routing. */
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { dirname } from "node:path";
import { finish, succeed } from "../../support/processes.ts";
import { lacking } from "../../support/requirements.ts";
import { attempt } from "../attempt.ts";
import { visitingOrder } from "../order.ts";
import { Progress } from "../progress.ts";
import { QUICK } from "../report.ts";
import { HELP, type PacketOptions, parsePacketOptions } from "./options.ts";
import { BALANCER_CORE } from "./peers.ts";
import { compare, type PacketRound, packetMarkdown } from "./report.ts";
import { type Guesses, type PacketVisit, visit } from "./visit.ts";

/** Runs it with the arguments given. */
export async function benchPackets(argv: string[]): Promise<void> {
  const options = parsePacketOptions(argv);
  if (options === undefined) {
    console.log(HELP);
    return;
  }
  const reason = lacking({ root: true, tools: ["ip", "taskset", "ethtool", "nft", "cargo"] });
  if (reason !== undefined) throw new Error(`the packet bench ${reason}`);
  if (cpus().length < 2) throw new Error("the packet bench needs two cores, one for the balancer alone");
  const tables = options.works.includes("tables") ? await flowTables(options.quick) : [];
  const guesses: Guesses = new Map();
  const rounds: PacketRound[] = [];
  if (options.quick) console.error(QUICK);
  if (options.works.some((work) => work !== "tables")) {
    const progress = new Progress(options.rounds);
    for (let n = 1; n <= options.rounds; n++) {
      rounds.push(await round(options, guesses, n));
      // Written after every round: a bench cut short still leaves what it has.
      await save(rounds, tables, options);
      progress.ended(n);
    }
  } else await save(rounds, tables, options);
  console.log(packetMarkdown(rounds, options, tables));
  console.error(`\nfigures: ${options.out}`);
}

/** Flow table, Maglev and the whole packet path, hot and cold, without any I/O. */
async function flowTables(quick: boolean): Promise<string[]> {
  const examples = { bench_conntrack: [], bench_process: quick ? ["--quick-check"] : [] };
  const cargo = ["cargo", "build", "--release", "-p", "convey-engine"];
  const wanted = Object.keys(examples).flatMap((name) => ["--example", name]);
  const out = await succeed([...cargo, ...wanted, "--message-format=json"], { timeoutMs: 600_000 });
  const lines: string[] = [];
  for (const [name, args] of Object.entries(examples)) {
    const executable = new RegExp(`"executable":"([^"]+/${name})"`).exec(out)?.[1];
    if (executable === undefined) throw new Error(`cargo built ${name} but named no executable`);
    console.error(name);
    const command = ["taskset", "-c", String(BALANCER_CORE), executable, ...args];
    lines.push(...(await succeed(command, { timeoutMs: 900_000 })).trimEnd().split("\n"));
  }
  return lines;
}

async function round(options: PacketOptions, guesses: Guesses, n: number): Promise<PacketVisit[]> {
  const reference = options.peers.filter((forwarder) => forwarder.name === "routing");
  const others = options.peers.filter((forwarder) => forwarder.name !== "routing");
  const visits: PacketVisit[] = [];
  for (const forwarder of visitingOrder(others, reference, n)) {
    console.error(`${n}/${options.rounds}: ${forwarder.name}`);
    const seen = await attempt(
      n,
      () => visit(forwarder, options, guesses),
      (missing) => ({ peer: forwarder.name, figures: {}, missing, atCeiling: [], failures: 0 }),
    );
    visits.push(seen);
  }
  return visits;
}

async function save(
  rounds: readonly PacketRound[],
  tables: readonly string[],
  options: PacketOptions,
): Promise<void> {
  mkdirSync(dirname(options.out), { recursive: true });
  const machine = {
    kernel: release(),
    cpus: cpus().length,
    model: cpus()[0]?.model ?? "",
    node: process.version,
  };
  const versions = { nft: (await finish(["nft", "--version"])).stdout.trim() };
  const names = options.peers.map(({ name }) => name);
  const comparisons = compare(rounds, names);
  const figures = { machine, versions, options: { ...options, peers: names }, comparisons, tables, rounds };
  writeFileSync(options.out, `${JSON.stringify(figures, null, 1)}\n`);
  writeFileSync(options.out.replace(/(\.json)?$/, ".md"), `${packetMarkdown(rounds, options, tables)}\n`);
}
