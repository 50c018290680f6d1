/**
 * `convey stats --watch`: one picture a second that fits the terminal and is painted over in place. On whatever way it
 * ends, the terminal is as it was. Where the output is no terminal, pictures follow each other as plain text.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { EXIT } from "./exit-codes.ts";
import { endWithReader } from "./running.ts";
import type { Reading } from "./stats.ts";
import { frontendTable, rates, report, serverTable, summary } from "./stats-report.ts";
import { cut } from "./table.ts";

/** Another screen, so that what was there comes back; no cursor; lines that are too long are not folded. */
const ENTER = "\u001b[?1049h\u001b[?25l\u001b[?7l";
const LEAVE = "\u001b[?7h\u001b[?25h\u001b[?1049l";
const HOME = "\u001b[H";
const REST_OF_LINE = "\u001b[K";
const REST_OF_SCREEN = "\u001b[J";

const UP = ["\u001b[A", "k"];
const DOWN = ["\u001b[B", "j"];
const PAGE_UP = ["\u001b[5~"];
const PAGE_DOWN = ["\u001b[6~", " "];
const QUIT = ["q", "Q", "\u0003"];

/** Returns the exit code. Throws what the first reading throws; later ones are shown, and tried again. */
export async function watch(read: () => Promise<Reading>, periodMs: number): Promise<number> {
  const first = await read();
  if (process.stdout.isTTY) return await new Screen(read, periodMs).run(first);
  endWithReader();
  let before = first;
  for (;;) {
    await sleep(periodMs);
    const now = await read();
    process.stdout.write(`${report(now, before).join("\n")}\n\n`);
    before = now;
  }
}

class Screen {
  readonly #read: () => Promise<Reading>;
  readonly #periodMs: number;
  #now: Reading | undefined;
  #before: Reading | undefined;
  #trouble = "";
  #offset = 0;
  #end: (() => void) | undefined;

  constructor(read: () => Promise<Reading>, periodMs: number) {
    this.#read = read;
    this.#periodMs = periodMs;
  }

  async run(first: Reading): Promise<number> {
    const { stdin, stdout } = process;
    this.#now = first;
    const ended = new Promise<void>((resolve) => {
      this.#end = resolve;
    });
    const stop = (): void => this.#end?.();
    const leave = (): void => void stdout.write(LEAVE);
    const onKey = (typed: Buffer): void => this.#key(typed.toString());
    const onResize = (): void => this.#paint();
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, stop);
    process.once("exit", leave);
    stdout.on("resize", onResize);
    stdout.once("error", stop);
    if (stdin.isTTY) stdin.setRawMode(true);
    stdin.on("data", onKey).once("end", stop);
    stdout.write(ENTER);
    try {
      this.#paint();
      for (let over = false; !over; ) {
        const pause = sleep(this.#periodMs).then(() => false);
        over = await Promise.race([pause, ended.then(() => true)]);
        if (!over) over = await Promise.race([this.#renew().then(() => false), ended.then(() => true)]);
        if (!over) this.#paint();
      }
    } finally {
      stdout.off("resize", onResize);
      stdin.off("data", onKey).pause();
      if (stdin.isTTY) stdin.setRawMode(false);
      process.off("exit", leave);
      leave();
    }
    return EXIT.ok;
  }

  async #renew(): Promise<void> {
    try {
      const next = await this.#read();
      this.#before = this.#now;
      this.#now = next;
      this.#trouble = "";
    } catch (error) {
      this.#trouble = error instanceof Error ? error.message : String(error);
    }
  }

  #key(typed: string): void {
    const page = Math.max(1, (process.stdout.rows ?? 24) - 8);
    if (QUIT.includes(typed)) this.#end?.();
    else if (UP.includes(typed)) this.#offset -= 1;
    else if (DOWN.includes(typed)) this.#offset += 1;
    else if (PAGE_UP.includes(typed)) this.#offset -= page;
    else if (PAGE_DOWN.includes(typed)) this.#offset += page;
    else return;
    this.#paint();
  }

  #paint(): void {
    if (this.#now === undefined) return;
    const { columns: width = 80, rows: height = 24 } = process.stdout;
    const lines = this.#lines(this.#now, width, height).slice(0, height);
    process.stdout.write(
      HOME + lines.map((line) => cut(line, width) + REST_OF_LINE).join("\r\n") + REST_OF_SCREEN,
    );
  }

  /** Head, frontends while they leave room, and as many servers as fit, those that fail first. */
  #lines(now: Reading, width: number, height: number): string[] {
    const rate = rates(now, this.#before ?? now);
    const head = summary(now.stats, rate);
    const frontends = frontendTable(now, rate, width);
    const most = Math.max(2, Math.floor(height / 4));
    const shown =
      frontends.length <= most + 1
        ? frontends
        : [...frontends.slice(0, most), `and ${frontends.length - most} more frontends`];
    const [heads = "", ...servers] = serverTable(now, rate, width, true);
    const room = Math.max(1, height - head.length - shown.length - 4);
    this.#offset = Math.max(0, Math.min(this.#offset, servers.length - room));
    const part = servers.slice(this.#offset, this.#offset + room);
    const place =
      servers.length > room
        ? `servers ${this.#offset + 1} to ${this.#offset + part.length} of ${servers.length}; arrows scroll, q quits`
        : "q quits";
    const foot = this.#trouble === "" ? place : `no answer, asking again: ${this.#trouble}`;
    return [...head, "", ...shown, "", heads, ...part, foot];
  }
}
