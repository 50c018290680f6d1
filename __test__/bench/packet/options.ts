/** What `npm run bench -- --mode packet` can be told. */
import { parseArgs } from "node:util";
import { FORWARDERS } from "./peers.ts";

export type PacketWork = "small" | "scattered" | "bulk" | "tables";

const WORKS: readonly PacketWork[] = ["small", "scattered", "bulk", "tables"];

export interface PacketOptions {
  works: readonly PacketWork[];
  peers: readonly string[];
  rounds: number;
  seconds: number;
  warmupSeconds: number;
  /** Flows of a flood, taken in turn. */
  flows: number;
  out: string;
}

const NAMES = FORWARDERS.map((forwarder) => forwarder.name);

export const HELP = `npm run bench -- --mode packet [options]
  --quick           0.8 s a run, 2 rounds (a look, not a claim)
  --only a,b        of ${WORKS.join(", ")}
  --peers a,b       of ${NAMES.join(", ")}
  --rounds n        each visits every peer twice, there and back (7)
  --seconds n       a run (1.5)
  --flows n         of a flood of small packets (64)
  --out file        the figures as JSON (target/bench/packet.json; the table goes beside it as .md)`;

/** Parses the arguments; undefined when help was asked for. */
export function parsePacketOptions(argv: string[]): PacketOptions | undefined {
  const { values } = parseArgs({
    args: argv,
    options: {
      mode: { type: "string" },
      quick: { type: "boolean", default: false },
      only: { type: "string" },
      peers: { type: "string" },
      rounds: { type: "string" },
      seconds: { type: "string" },
      flows: { type: "string" },
      out: { type: "string", default: "target/bench/packet.json" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) return undefined;
  return {
    works: list("only", values.only, WORKS),
    peers: list("peers", values.peers, NAMES),
    rounds: number("rounds", values.rounds, values.quick ? 2 : 7),
    seconds: number("seconds", values.seconds, values.quick ? 0.8 : 1.5),
    warmupSeconds: 0.4,
    flows: number("flows", values.flows, 64),
    out: values.out,
  };
}

function list<T extends string>(key: string, text: string | undefined, known: readonly T[]): readonly T[] {
  if (text === undefined) return known;
  const wanted = text.split(",").map((part) => part.trim());
  const unknown = wanted.find((part) => !known.some((name) => name === part));
  if (unknown !== undefined) throw new Error(`--${key} cannot be "${unknown}"; use ${known.join(", ")}`);
  return known.filter((name) => wanted.includes(name));
}

function number(key: string, text: string | undefined, otherwise: number): number {
  const value = text === undefined ? otherwise : Number(text);
  if (!(value > 0)) throw new Error(`--${key} cannot be "${text}"; use a number above 0`);
  return value;
}
