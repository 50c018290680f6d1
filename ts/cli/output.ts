/**
 * Writes the log so that nobody who reads it can hurt the balancer: what cannot be written now (a paused terminal,
 * a stuck collector, a full disk) waits up to a limit, costs lines beyond it, and goes on when there is room
 * again; it never blocks the event loop or grows memory.
 *
 * Node's own process.stdout and process.stderr write synchronously to pipes and terminals, which is why they
 * are not used here.
 */
import { constants, fstatSync, openSync, writeSync } from "node:fs";
import { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { isatty } from "node:tty";

/** Bytes that may wait; what comes beyond is dropped and counted. */
const LIMIT_BYTES = 1 << 20;
/** When a reader that was too slow is tried again. */
const BUSY_RETRY_MS = 50;
/** When a disk without room, or a pipe without a reader, is tried again. */
const FAULT_RETRY_MS = 500;

/** A place for log lines. */
export interface Output {
  /** Takes one or more whole lines; never throws, never waits. */
  write(lines: string): void;
  /** Resolves when what waits is written or cannot be, or after `deadlineMs`. */
  flush(deadlineMs: number): Promise<void>;
}

/** Says how many lines were lost, as one line of the kind that is written. */
export type LostLine = (count: number) => string;

/** An output on an open descriptor, usually 2. */
export function openOutput(descriptor: number, lostLine: LostLine): Output {
  try {
    const kind = fstatSync(descriptor);
    if (kind.isSocket()) return new SocketOutput(descriptor, lostLine);
    if (kind.isFIFO() || kind.isCharacterDevice()) {
      // A description of our own: setting O_NONBLOCK on the inherited one would change it for our parent too.
      const flags = constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY;
      return new DescriptorOutput(openSync(`/proc/self/fd/${descriptor}`, flags), lostLine);
    }
  } catch {
    // Closed, or not ours to open again: written to as it is.
  }
  return new DescriptorOutput(descriptor, lostLine);
}

/** A queue with a limit, over a write that may take only part. */
class DescriptorOutput implements Output {
  readonly #descriptor: number;
  readonly #lostLine: LostLine;
  readonly #terminal: boolean;
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #lost = 0;
  #timer: NodeJS.Timeout | undefined;
  /** The last write failed; there is no use in waiting for it. */
  #faulty = false;
  /** Nothing can ever be written again. */
  #dead = false;

  constructor(descriptor: number, lostLine: LostLine) {
    this.#descriptor = descriptor;
    this.#lostLine = lostLine;
    this.#terminal = isatty(descriptor);
  }

  write(lines: string): void {
    if (this.#dead) return;
    const bytes = Buffer.from(lines);
    if (this.#waitingBytes + bytes.length > LIMIT_BYTES) {
      this.#lost += 1;
      return;
    }
    this.#push(bytes);
    if (this.#timer === undefined) this.#drain();
  }

  async flush(deadlineMs: number): Promise<void> {
    const deadline = Date.now() + deadlineMs;
    while (this.#waitingBytes > 0 && !this.#faulty && Date.now() < deadline) {
      await sleep(10);
    }
  }

  #push(bytes: Buffer): void {
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
  }

  #drain(): void {
    this.#timer = undefined;
    try {
      for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
        // A full disk takes a part of it, too: what is left goes on in the middle of the line.
        const written = writeSync(this.#descriptor, first);
        this.#faulty = false;
        this.#waitingBytes -= written;
        if (written < first.length) this.#waiting[0] = first.subarray(written);
        else this.#waiting.shift();
        if (this.#waiting.length === 0 && this.#lost > 0) {
          this.#push(Buffer.from(this.#lostLine(this.#lost)));
          this.#lost = 0;
        }
      }
    } catch (error) {
      this.#onFault((error as NodeJS.ErrnoException).code);
    }
  }

  #onFault(code: string | undefined): void {
    const busy = code === "EAGAIN";
    this.#faulty = !busy;
    if (code === "EBADF" || (this.#terminal && !busy)) {
      this.#dead = true;
      this.#waiting = [];
      this.#waitingBytes = 0;
      return;
    }
    this.#timer = setTimeout(() => this.#drain(), busy ? BUSY_RETRY_MS : FAULT_RETRY_MS).unref();
  }
}

/** A socket (systemd's journal) cannot be opened again through /proc; libuv writes to it without blocking. */
class SocketOutput implements Output {
  readonly #socket: Socket;
  readonly #lostLine: LostLine;
  #lost = 0;

  constructor(descriptor: number, lostLine: LostLine) {
    this.#lostLine = lostLine;
    this.#socket = new Socket({ fd: descriptor, readable: false, writable: true });
    this.#socket.on("error", () => this.#socket.destroy());
    this.#socket.on("drain", () => this.#tellLost());
    this.#socket.unref();
  }

  write(lines: string): void {
    if (this.#socket.destroyed) return;
    if (this.#socket.writableLength + Buffer.byteLength(lines) > LIMIT_BYTES) {
      this.#lost += 1;
      return;
    }
    this.#tellLost();
    this.#socket.write(lines);
  }

  async flush(deadlineMs: number): Promise<void> {
    const deadline = Date.now() + deadlineMs;
    while (this.#socket.writableLength > 0 && !this.#socket.destroyed && Date.now() < deadline) {
      await sleep(10);
    }
  }

  #tellLost(): void {
    if (this.#lost === 0) return;
    const line = this.#lostLine(this.#lost);
    this.#lost = 0;
    this.#socket.write(line);
  }
}
