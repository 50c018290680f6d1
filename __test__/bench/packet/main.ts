/** The bench of the packet modes: every engine beside a one-call forwarder, nft DNAT and plain routing. */
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { dirname } from "node:path";
import { finish } from "../../support/processes.ts";
import { lacking } from "../../support/requirements.ts";
import { attempt } from "../attempt.ts";
import { visitingOrder } from "../order.ts";
import { Progress } from "../progress.ts";
import { QUICK } from "../report.ts";
import { once } from "./once.ts";
import { HELP, IN_ROUNDS, type PacketOptions, parsePacketOptions } from "./options.ts";
import { compare, type PacketRound, packetMarkdown } from "./report.ts";
import type { Section } from "./section.ts";
import { type Guesses, type PacketVisit, visit } from "./visit.ts";

/** Visited once a round, in its middle. */
const REFERENCES = ["direct", "routing"];

/** Runs it with the arguments given. */
export async function benchPackets(argv: string[]): Promise<void> {
  const options = parsePacketOptions(argv);
  if (options === undefined) {
    console.log(HELP);
    return;
  }
  const reason = lacking({ root: true, tools: ["ip", "taskset", "ethtool", "nft", "cargo", "curl"] });
  if (reason !== undefined) throw new Error(`the packet bench ${reason}`);
  if (cpus().length < 2) throw new Error("the packet bench needs two cores, one for the balancer alone");
  const guesses: Guesses = new Map();
  const rounds: PacketRound[] = [];
  const sections: Section[] = [];
  if (options.quick) console.error(QUICK);
  if (options.works.some((work) => IN_ROUNDS.includes(work))) {
    const progress = new Progress(options.rounds);
    for (let n = 1; n <= options.rounds; n++) {
      rounds.push(await round(options, guesses, n));
      // Written after every round: a bench cut short still leaves what it has.
      await save(rounds, sections, options);
      progress.ended(n);
    }
  }
  for await (const section of once(options)) {
    sections.push(section);
    await save(rounds, sections, options);
  }
  console.log(packetMarkdown(rounds, options, sections));
  console.error(`\nfigures: ${options.out}`);
}

async function round(options: PacketOptions, guesses: Guesses, n: number): Promise<PacketVisit[]> {
  const reference = options.peers.filter((forwarder) => REFERENCES.includes(forwarder.name));
  const others = options.peers.filter((forwarder) => !REFERENCES.includes(forwarder.name));
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
  sections: readonly Section[],
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
  const comparisons = compare(rounds, options.peers);
  const figures = { machine, versions, options: { ...options, peers: names }, comparisons, sections, rounds };
  writeFileSync(options.out, `${JSON.stringify(figures, null, 1)}\n`);
  writeFileSync(options.out.replace(/(\.json)?$/, ".md"), `${packetMarkdown(rounds, options, sections)}\n`);
}
