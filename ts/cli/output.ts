/**
 * Writes the log so that nobody who reads it can hurt the balancer: a closed pipe ends the log, a blocked one
 * (a paused terminal, a stuck collector) costs lines but never blocks the event loop or grows memory.
 *
 * Node's own process.stdout and process.stderr write synchronously to pipes and terminals, which is why they
 * are not used here.
 */
import { closeSync, constants, fstatSync, openSync, writeSync } from "node:fs";
import { Socket } from "node:net";

/** Bytes that may wait for a slow reader; what comes beyond is dropped and counted. */
const LIMIT_BYTES = 1 << 20;
const RETRY_MS = 50;

/** A place for log lines. */
export interface Output {
  /** Takes one or more whole lines; never throws, never waits. */
  write(lines: string): void;
  /** Resolves when what waits is written, or after `deadlineMs`. */
  flush(deadlineMs: number): Promise<void>;
}

/** An output on an open descriptor, usually 2. */
export function openOutput(descriptor: number): Output {
  try {
    const kind = fstatSync(descriptor);
    if (kind.isSocket()) return new SocketOutput(descriptor);
    if (kind.isFIFO() || kind.isCharacterDevice()) {
      // A description of our own: setting O_NONBLOCK on the inherited one would change it for our parent too.
      const flags = constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY;
      return new DescriptorOutput(openSync(`/proc/self/fd/${descriptor}`, flags), true);
    }
  } catch {
    // Closed, or not ours to open again: written to as it is, and given up at the first error.
  }
  return new DescriptorOutput(descriptor, false);
}

/** A queue with a limit, over a write that may take only part. */
class DescriptorOutput implements Output {
  readonly #descriptor: number;
  readonly #own: boolean;
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #dropped = 0;
  #timer: NodeJS.Timeout | undefined;
  #dead = false;

  constructor(descriptor: number, own: boolean) {
    this.#descriptor = descriptor;
    this.#own = own;
  }

  write(lines: string): void {
    if (this.#dead) return;
    const bytes = Buffer.from(lines);
    if (this.#waitingBytes + bytes.length > LIMIT_BYTES) {
      this.#dropped += 1;
      return;
    }
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    if (this.#timer === undefined) this.#drain();
  }

  async flush(deadlineMs: number): Promise<void> {
    const deadline = Date.now() + deadlineMs;
    while (this.#waitingBytes > 0 && !this.#dead && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  #drain(): void {
    this.#timer = undefined;
    try {
      for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
        const written = writeSync(this.#descriptor, first);
        this.#waitingBytes -= written;
        if (written < first.length) this.#waiting[0] = first.subarray(written);
        else this.#waiting.shift();
        if (this.#waiting.length === 0 && this.#dropped > 0) this.#tellDropped();
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EAGAIN") {
        this.#timer = setTimeout(() => this.#drain(), RETRY_MS).unref();
      } else {
        this.#giveUp();
      }
    }
  }

  #tellDropped(): void {
    const bytes = Buffer.from(droppedLine(this.#dropped));
    this.#dropped = 0;
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
  }

  #giveUp(): void {
    this.#dead = true;
    this.#waiting = [];
    this.#waitingBytes = 0;
    if (this.#own) closeSync(this.#descriptor);
  }
}

/** A socket (systemd's journal) cannot be opened again through /proc; libuv writes to it without blocking. */
class SocketOutput implements Output {
  readonly #socket: Socket;
  #dropped = 0;

  constructor(descriptor: number) {
    this.#socket = new Socket({ fd: descriptor, readable: false, writable: true });
    this.#socket.on("error", () => this.#socket.destroy());
    this.#socket.unref();
  }

  write(lines: string): void {
    if (this.#socket.destroyed) return;
    if (this.#socket.writableLength + lines.length > LIMIT_BYTES) {
      this.#dropped += 1;
      return;
    }
    if (this.#dropped > 0) {
      this.#socket.write(droppedLine(this.#dropped));
      this.#dropped = 0;
    }
    this.#socket.write(lines);
  }

  async flush(deadlineMs: number): Promise<void> {
    const deadline = Date.now() + deadlineMs;
    while (this.#socket.writableLength > 0 && !this.#socket.destroyed && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

function droppedLine(count: number): string {
  return `${JSON.stringify({ level: 40, time: Date.now(), msg: `${count} log lines were dropped: the reader was too slow` })}\n`;
}
