/**
 * Reads every counter often and cheaply: names, addresses and reasons are read again only when the configuration in
 * service is another or something more was refused; the rest is numbers.
 */
import type { Dataplane, NativeCounters, NativeStats } from "../native/index.ts";

/** Numbers a row: connections in total and open, bytes tx and rx, reasons. */
const WIDTH = 5;

/** See the module's head. */
export class CounterReader {
  readonly #dataplane: Pick<Dataplane, "stats" | "reread">;
  #stats: NativeStats | undefined;
  #settled = true;

  constructor(dataplane: Pick<Dataplane, "stats" | "reread">) {
    this.#dataplane = dataplane;
  }

  /** All counters as of now. What it returns is valid until the next reading, which renews it in place. */
  read(): NativeStats {
    const known = this.#settled ? this.#stats : undefined;
    if (known === undefined) return this.#whole();
    const { numbers, packet, lostLogLines } = this.#dataplane.reread(known.version);
    if (numbers === undefined || !renew(known, numbers)) return this.#whole();
    if (packet !== undefined) known.packet = packet;
    known.lostLogLines = lostLogLines;
    return known;
  }

  /** From now on addresses change without a new configuration: listeners are being closed. */
  unsettle(): void {
    this.#settled = false;
  }

  #whole(): NativeStats {
    this.#stats = this.#dataplane.stats();
    return this.#stats;
  }
}

/** Takes the numbers over; false when reasons or a queue are others, which numbers do not tell. */
function renew(stats: NativeStats, numbers: Float64Array): boolean {
  let at = 0;
  const row = (counters: NativeCounters, known: number): boolean => {
    if (counters.totalConnections !== undefined) counters.totalConnections = numbers[at] as number;
    if (counters.currentConnections !== undefined) counters.currentConnections = numbers[at + 1] as number;
    counters.bytesTx = numbers[at + 2] as number;
    counters.bytesRx = numbers[at + 3] as number;
    const same = known === numbers[at + 4];
    at += WIDTH;
    return same;
  };
  let same = row(stats.counters, sum(stats.reasons));
  for (const { counters, reasons } of stats.frontends) same = row(counters, sum(reasons)) && same;
  for (const { counters, queue, servers } of stats.backends) {
    same = row(counters, moves(queue)) && same;
    for (const server of servers) same = row(server.counters, sum(server.reasons)) && same;
  }
  return same && at === numbers.length;
}

function sum(reasons: NativeStats["reasons"]): number {
  let sum = 0;
  for (const { count } of reasons) sum += count;
  return sum;
}

/** As the data plane counts them. */
const moves = (queue: NativeStats["backends"][number]["queue"]): number =>
  queue === undefined ? 0 : 2 * queue.total + queue.timedOut + queue.refused - queue.waiting;
