/** The bench of the packet modes: the portable engine beside a one-call forwarder, nft DNAT and plain routing. */
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { dirname } from "node:path";
import { finish, succeed } from "../../support/processes.ts";
import { lacking } from "../../support/requirements.ts";
import { HELP, type PacketOptions, parsePacketOptions } from "./options.ts";
import { BALANCER_CORE, FORWARDERS, type Forwarder } from "./peers.ts";
import { judgePackets, type PacketRound, packetMarkdown } from "./report.ts";
import { type PacketVisit, visit } from "./visit.ts";

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
  const forwarders = FORWARDERS.filter((forwarder) => options.peers.includes(forwarder.name));
  const tables = options.works.includes("tables") ? await flowTables() : [];
  // Without a handler the process would end and its namespaces and servers would stay.
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => interrupted.abort());
  const rounds: PacketRound[] = [];
  if (options.works.some((work) => work !== "tables")) {
    for (let n = 1; n <= options.rounds; n++) {
      rounds.push(await round(forwarders, options, `${n}/${options.rounds}`, interrupted.signal));
      // Written after every round: a bench cut short still leaves what it has.
      await save(rounds, tables, options);
    }
  } else await save(rounds, tables, options);
  console.log(packetMarkdown(rounds, options.peers, tables));
  console.error(`\nfigures: ${options.out}`);
}

/** Flow table, Maglev and the whole packet path without any I/O. */
async function flowTables(): Promise<string[]> {
  const cargo = ["cargo", "build", "--release", "-p", "convey-engine", "--example", "bench_conntrack"];
  const out = await succeed([...cargo, "--message-format=json"], { timeoutMs: 600_000 });
  const executable = /"executable":"([^"]+bench_conntrack)"/.exec(out)?.[1];
  if (executable === undefined) throw new Error("cargo built bench_conntrack but named no executable");
  console.error("flow tables");
  const command = ["taskset", "-c", String(BALANCER_CORE), executable];
  return (await succeed(command, { timeoutMs: 300_000 })).trim().split("\n");
}

/** There and back, with plain routing once in the middle. */
async function round(
  forwarders: readonly Forwarder[],
  options: PacketOptions,
  label: string,
  interrupted: AbortSignal,
): Promise<PacketVisit[]> {
  const reference = forwarders.filter((forwarder) => forwarder.name === "routing");
  const others = forwarders.filter((forwarder) => forwarder.name !== "routing");
  const visits: PacketVisit[] = [];
  for (const forwarder of [...others, ...reference, ...others.toReversed()]) {
    if (interrupted.aborted)
      throw new Error("the packet bench was interrupted; rounds before are in its file");
    console.error(`${label}: ${forwarder.name}`);
    visits.push(await visit(forwarder, options));
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
  const verdicts = judgePackets(rounds, options.peers);
  const figures = { machine, versions, options, verdicts, tables, rounds };
  writeFileSync(options.out, `${JSON.stringify(figures, null, 1)}\n`);
  writeFileSync(
    options.out.replace(/(\.json)?$/, ".md"),
    `${packetMarkdown(rounds, options.peers, tables)}\n`,
  );
}
