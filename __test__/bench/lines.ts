/** Which thread wrote to which cache line, out of what valgrind's lackey tells of every access. */

const LINE_BYTES = 64n;

/** A range of addresses. */
export interface Range {
  from: bigint;
  to: bigint;
}

/** The stacks of threads in the text of /proc/<pid>/maps: writable, and right behind a page that nobody may touch. */
export function stacks(maps: string): Range[] {
  const found: Range[] = [];
  let guard: bigint | undefined;
  for (const line of maps.split("\n")) {
    const [, from = "", to = "", rights = ""] = /^(\w+)-(\w+) (\S+)/.exec(line) ?? [];
    const range = { from: BigInt(`0x${from || 0}`), to: BigInt(`0x${to || 0}`) };
    // Stacks for signals are behind such a page too, but small.
    if (rights === "rw-p" && guard === range.from && range.to - range.from >= 64n * 1024n) found.push(range);
    // An allocator reserves far more behind its memory, and the next of its kind follows.
    guard = rights === "---p" && range.to - range.from <= 64n * 1024n ? range.to : undefined;
  }
  return found;
}

/** What became of one line. */
interface Line {
  threads: Set<number>;
  writes: number;
  /** Who wrote last, and whether somebody else was there since. */
  owner: number;
  lost: boolean;
  taken: number;
}

export class Lines {
  readonly #stacks: readonly Range[];
  readonly #lines = new Map<bigint, Line>();
  /** The thread at work. valgrind runs one at a time, and each is at its own stack every few instructions. */
  #thread = -1;

  constructor(stacks: readonly Range[]) {
    this.#stacks = stacks;
  }

  /** Takes one line of the trace: ` S 04b2e010,8` is a store, `L` a load, `M` both, `I` an instruction. */
  take(text: string): void {
    const [, kind, hex, size] = /^ ([LSM]) (\w+),(\d+)$/.exec(text) ?? [];
    if (kind === undefined) return;
    const address = BigInt(`0x${hex}`);
    const stack = this.#stacks.findIndex(({ from, to }) => from <= address && address < to);
    if (stack >= 0) {
      this.#thread = stack;
      return;
    }
    const last = (address + BigInt(size ?? 1) - 1n) / LINE_BYTES;
    for (let line = address / LINE_BYTES; line <= last; line++) this.#access(line, kind !== "L");
  }

  #access(at: bigint, write: boolean): void {
    const line = this.#lines.get(at) ?? {
      threads: new Set<number>(),
      writes: 0,
      owner: this.#thread,
      lost: false,
      taken: 0,
    };
    this.#lines.set(at, line);
    line.threads.add(this.#thread);
    if (line.owner !== this.#thread) line.lost = true;
    if (!write) return;
    line.writes++;
    if (line.lost) line.taken++;
    line.owner = this.#thread;
    line.lost = false;
  }

  /** Writes to all lines outside stacks, to those that more than one thread used, and those that took such a line. */
  counts(): { writes: number; shared: number; taken: number } {
    const all = { writes: 0, shared: 0, taken: 0 };
    for (const { threads, writes, taken } of this.#lines.values()) {
      all.writes += writes;
      if (threads.size < 2) continue;
      all.shared += writes;
      all.taken += taken;
    }
    return all;
  }
}
