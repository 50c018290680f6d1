/** What `npm run bench -- --mode packet` can be told. */
import { parseArgs } from "node:util";
import { type Forwarder, forwarders, USUAL_PEERS, type Work } from "./peers.ts";

/** What is measured once, not in rounds; each prints a section of its own. */
export type Once = "tables" | "programs" | "scale" | "reload" | "synflood";

export type PacketWork = Work | Once;

/** What every peer does in every round. */
export const IN_ROUNDS: readonly PacketWork[] = ["small", "scattered", "connect", "bulk"];

const WORKS: readonly PacketWork[] = [
  ...IN_ROUNDS,
  ...(["reload", "synflood", "programs", "scale", "tables"] as const),
];

/** What is done unless asked otherwise: the rest takes minutes, or is of interest for few engines. */
const USUAL: readonly PacketWork[] = ["scattered", "connect", "bulk", "reload", "synflood"];

export interface PacketOptions {
  works: readonly PacketWork[];
  peers: readonly Forwarder[];
  quick: boolean;
  rounds: number;
  seconds: number;
  warmupSeconds: number;
  /** Of one run of a search. */
  probeSeconds: number;
  /** Flows of a flood, taken in turn. */
  flows: number;
  /** Share of a flood that may be lost for a rate to count as reached. */
  loss: number;
  /** How closely a rate is searched, as a share. */
  precision: number;
  out: string;
}

export const HELP = `npm run bench -- --mode packet [options]
  --quick           1 round of short runs: shows that it works, decides nothing, not to be quoted
  --only a,b        of ${WORKS.join(", ")}
                    (${USUAL.join(", ")})
  --peers a,b       of ${forwarders(undefined)
    .map(({ name }) => name)
    .join(", ")}
                    and those of CONVEY_BENCH_PEERS (${USUAL_PEERS.join(", ")}, and those)
  --rounds n        each visits every peer twice, there and back (5)
  --seconds n       a run (1)
  --flows n         of a flood of small packets (64)
  --loss n          per cent of a flood that may be lost (0.5)
  --out file        the figures as JSON (target/bench/packet.json; the table goes beside it as .md)
  CONVEY_BENCH_PEERS="name=command,…" adds another build of convey, with every engine: name-tc, name-tc-dsr, …;
                    {config} is replaced by the path of a configuration file`;

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
      loss: { type: "string" },
      out: { type: "string", default: "target/bench/packet.json" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) return undefined;
  const known = forwarders(process.env.CONVEY_BENCH_PEERS);
  const own = new Set(forwarders(undefined).map(({ name }) => name));
  const usual = known.filter(({ name }) => USUAL_PEERS.includes(name) || !own.has(name));
  const names =
    values.peers === undefined
      ? usual.map(({ name }) => name)
      : list(
          "peers",
          values.peers,
          known.map(({ name }) => name),
        );
  return {
    works: values.only === undefined ? USUAL : list("only", values.only, WORKS),
    peers: known.filter(({ name }) => names.includes(name)),
    quick: values.quick,
    rounds: number("rounds", values.rounds, values.quick ? 1 : 5),
    seconds: number("seconds", values.seconds, values.quick ? 0.5 : 1),
    warmupSeconds: 0.3,
    probeSeconds: values.quick ? 0.2 : 0.3,
    flows: number("flows", values.flows, 64),
    loss: number("loss", values.loss, 0.5) / 100,
    precision: values.quick ? 0.1 : 0.03,
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
