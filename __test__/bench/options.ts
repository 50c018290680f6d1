/** What `npm run bench` can be told. */
import { parseArgs } from "node:util";

export type Profile = "one" | "two";
export type Work = (typeof WORKS)[number];

/** What is measured unless asked for something else. */
const USUAL = ["memory", "bulk", "keepalive", "half", "connect"] as const;

export const WORKS = [
  ...USUAL,
  ...(["few", "mixed", "sparse", "idle", "connect-proxy", "connect-sni", "connect-log"] as const),
] as const;

export interface Options {
  profiles: readonly Profile[];
  works: readonly Work[];
  /** Names of peers, or undefined for all. */
  peers: readonly string[] | undefined;
  quick: boolean;
  rounds: number;
  seconds: number;
  warmupSeconds: number;
  idlePairs: number;
  /** Idle pairs of `idle`, and for how long nothing happens. */
  pairs: number;
  idleSeconds: number;
  /** Clients of `sparse`, each of which asks once a second. */
  clients: number;
  /** The least that a run of `sparse` takes: a second brings few requests. */
  sparseSeconds: number;
  /** Requests a second of `mixed`. */
  mixedRate: number;
  offloads: readonly boolean[];
  out: string;
}

export const HELP = `npm run bench -- [options]
  --mode proxy|packet
                    proxy mode, or the packet modes (proxy; --mode packet --help tells its options)
  --quick           2 rounds of short runs: shows that it works, decides nothing, not to be quoted
  --profile one|two|both
                    one: the balancer alone on core 1, all else on core 0; two: two threads, nothing pinned (one)
  --only a,b        of ${WORKS.join(", ")}
                    (${USUAL.join(", ")})
  --peers a,b       of convey, haproxy, haproxy-splice, nginx, nginx-256k, direct and those of CONVEY_BENCH_PEERS
  --rounds n        each visits every peer twice, there and back (5)
  --seconds n       a run (1.3)
  --offloads on|off|both
                    segmentation offload on the veth links (on)
  --clients n       of sparse, each with one request a second (1000)
  --mixed-rate n    small requests a second beside bulk, over 64 connections (2000)
  --pairs n         idle pairs of idle; each takes two open files of the balancer (9000)
  --out file        the figures as JSON (target/bench/proxy.json; the table goes beside it as .md)
  CONVEY_BENCH_PEERS="name=command,…" adds peers; {listen}, {server}, {threads} are replaced, and {config} by the path
                    of a configuration file of convey: name=node /path/to/dist/cli/main.js run -c {config}`;

/** Whether the packet modes are to be measured; their own arguments are parsed elsewhere. */
export function isPacket(argv: string[]): boolean {
  const { values } = parseArgs({ args: argv, options: { mode: { type: "string" } }, strict: false });
  return oneOf("mode", String(values.mode ?? "proxy"), ["proxy", "packet"]) === "packet";
}

/** Parses the arguments; undefined when help was asked for. */
export function parseOptions(argv: string[]): Options | undefined {
  const { values } = parseArgs({
    args: argv,
    options: {
      mode: { type: "string" },
      quick: { type: "boolean", default: false },
      profile: { type: "string" },
      only: { type: "string" },
      peers: { type: "string" },
      rounds: { type: "string" },
      seconds: { type: "string" },
      offloads: { type: "string", default: "on" },
      clients: { type: "string" },
      "mixed-rate": { type: "string" },
      pairs: { type: "string" },
      out: { type: "string", default: "target/bench/proxy.json" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) return undefined;
  const profile = oneOf("profile", values.profile ?? "one", ["one", "two", "both"]);
  const offloads = oneOf("offloads", values.offloads, ["on", "off", "both"]);
  const works = list(values.only) ?? USUAL;
  for (const work of works) oneOf("only", work, WORKS);
  return {
    profiles: profile === "both" ? ["one", "two"] : [profile as Profile],
    works: works as Work[],
    peers: list(values.peers),
    quick: values.quick,
    rounds: number("rounds", values.rounds, values.quick ? 2 : 5),
    seconds: number("seconds", values.seconds, values.quick ? 0.7 : 1.3),
    warmupSeconds: 0.3,
    idlePairs: values.quick ? 1000 : 5000,
    pairs: whole("pairs", values.pairs, values.quick ? 1000 : 9000),
    idleSeconds: values.quick ? 1 : 5,
    clients: whole("clients", values.clients, 1000),
    sparseSeconds: values.quick ? 1 : 3,
    mixedRate: number("mixed-rate", values["mixed-rate"], 2000),
    offloads: offloads === "both" ? [true, false] : [offloads === "on"],
    out: values.out,
  };
}

function list(text: string | undefined): string[] | undefined {
  return text?.split(",").map((part) => part.trim());
}

function oneOf(key: string, value: string, allowed: readonly string[]): string {
  if (!allowed.includes(value)) throw new Error(`--${key} cannot be "${value}"; use ${allowed.join(", ")}`);
  return value;
}

function number(key: string, text: string | undefined, otherwise: number): number {
  const value = text === undefined ? otherwise : Number(text);
  if (!(value > 0)) throw new Error(`--${key} cannot be "${text}"; use a number above 0`);
  return value;
}

function whole(key: string, text: string | undefined, otherwise: number): number {
  const value = number(key, text, otherwise);
  if (!Number.isInteger(value)) throw new Error(`--${key} cannot be "${text}"; use a whole number`);
  return value;
}
