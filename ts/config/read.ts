/**
 * Reads small files so that nothing blocks for good: a FIFO without a writer, a terminal and a file system that
 * hangs are waited for where a signal can end the wait.
 */
import { close, constants, fstat, open, read } from "node:fs";
import { Socket } from "node:net";
import type { Readable } from "node:stream";
import { isatty, ReadStream } from "node:tty";
import { promisify } from "node:util";

export interface SmallFile {
  bytes: Buffer;
  mode: number;
  /** False for a pipe, a terminal or another device, which gives its content once. */
  regular: boolean;
}

/** How long a read may take before it counts as failed; no file that can be read takes so long. */
const TIMEOUT_MS = 10_000;

const underWay = new Set<Promise<unknown>>();

/** Resolves when no thread reads any more; a read that was given up may still be under way. */
export async function readsEnded(): Promise<void> {
  while (underWay.size > 0) await Promise.allSettled(underWay);
}

export interface ReadOptions {
  /** Bounds the whole of it, 0 for ever; ten seconds unless given. */
  timeoutMs?: number | undefined;
  /** Whether pipes, terminals and devices are read, too; otherwise their content comes back empty. */
  anything?: boolean;
}

/**
 * Reads at most `limit` + 1 bytes.
 *
 * @throws Error with a `code` as from `open()` and `read()`; `EISDIR` for a directory, `ETIMEDOUT`.
 */
export async function readSmallFile(
  file: string,
  limit: number,
  { timeoutMs = TIMEOUT_MS, anything = false }: ReadOptions = {},
): Promise<SmallFile> {
  const late = new AbortController();
  const content = readAny(file, limit + 1, anything, late.signal);
  if (timeoutMs === 0) return await content;
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      late.abort();
      reject(failure("ETIMEDOUT", `it gave nothing to read, or no end, within ${timeoutMs / 1000} s`));
    }, timeoutMs);
  });
  try {
    return await Promise.race([content, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

async function readAny(file: string, most: number, anything: boolean, late: AbortSignal): Promise<SmallFile> {
  // Without O_NONBLOCK, opening a FIFO waits for a writer in a thread that nothing can end.
  const flags = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;
  const fd = await inThread(promisify(open)(file, flags));
  let stream: Readable | undefined;
  try {
    const stat = await inThread(promisify(fstat)(fd));
    if (stat.isDirectory()) throw failure("EISDIR", "is a directory");
    const found = { mode: stat.mode, regular: stat.isFile() };
    if (!found.regular && !anything) return { bytes: Buffer.alloc(0), ...found };
    if (stat.isFIFO()) stream = new Socket({ fd, readable: true, writable: false });
    else if (isatty(fd)) stream = new ReadStream(fd);
    const bytes = stream ? await collect(stream, most, late) : await readUpTo(fd, most);
    return { bytes, ...found };
  } finally {
    // A stream closes its descriptor itself.
    if (stream) stream.destroy();
    else await inThread(promisify(close)(fd));
  }
}

async function readUpTo(fd: number, most: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let total = 0;
  while (total < most) {
    const buffer = Buffer.allocUnsafe(Math.min(256 * 1024, most - total));
    const { bytesRead } = await inThread(promisify(read)(fd, buffer, 0, buffer.length, null));
    if (bytesRead === 0) break;
    chunks.push(buffer.subarray(0, bytesRead));
    total += bytesRead;
  }
  return Buffer.concat(chunks, total);
}

async function collect(stream: Readable, most: number, late: AbortSignal): Promise<Buffer> {
  const stop = () => stream.destroy(failure("ETIMEDOUT", "given up"));
  if (late.aborted) stop();
  late.addEventListener("abort", stop);
  const chunks: Buffer[] = [];
  let total = 0;
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    total += chunk.length;
    if (total >= most) break;
  }
  return Buffer.concat(chunks).subarray(0, most);
}

async function inThread<T>(work: Promise<T>): Promise<T> {
  underWay.add(work);
  try {
    return await work;
  } finally {
    underWay.delete(work);
  }
}

function failure(code: string, message: string): NodeJS.ErrnoException {
  return Object.assign(new Error(message), { code });
}
