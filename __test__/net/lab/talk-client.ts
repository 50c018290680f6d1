/**
 * A client of the packet labs: reads commands as lines of JSON, answers each with one. Arguments: address and
 * port of the frontend. Commands and answers are those of `talk.ts`.
 */
import { createSocket } from "node:dgram";
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import type { Answer, Command, Conversation } from "./talk.ts";

const [host = "", port = ""] = process.argv.slice(2);
const SILENCE_MS = 8_000;

/** Errors of sockets since the command began, by code. */
let errors: Record<string, number> = {};

class Talk {
  readonly socket: Socket;
  ended: "fin" | "reset" | undefined;
  peer: Conversation | undefined;
  #received = Buffer.alloc(0);
  #wake: () => void = () => undefined;

  constructor(localPort?: number) {
    this.socket = connect({
      host,
      port: Number(port),
      allowHalfOpen: true,
      noDelay: true,
      ...(localPort === undefined ? {} : { localPort }),
    });
    this.socket.on("data", (piece: Buffer) => {
      this.#received = Buffer.concat([this.#received, piece]);
      this.#wake();
    });
    this.socket
      .on("end", () => this.#end("fin"))
      .on("error", (error: NodeJS.ErrnoException) => {
        const code = error.code ?? error.message;
        errors[code] = (errors[code] ?? 0) + 1;
        this.#end("reset");
      });
  }

  #end(how: "fin" | "reset"): void {
    this.ended ??= how;
    this.#wake();
  }

  /** The next `length` bytes, or up to and with the next line feed; undefined when they do not come. */
  async read(length: number | "line"): Promise<Buffer | undefined> {
    const deadline = performance.now() + SILENCE_MS;
    for (;;) {
      const end = length === "line" ? this.#received.indexOf(10) + 1 : length;
      if (end > 0 && this.#received.length >= end) {
        const taken = this.#received.subarray(0, end);
        this.#received = this.#received.subarray(end);
        return taken;
      }
      if (this.ended !== undefined || performance.now() > deadline) return undefined;
      await Promise.race([
        new Promise<void>((done) => {
          this.#wake = done;
        }),
        sleep(deadline - performance.now()),
      ]);
    }
  }

  async greeted(): Promise<boolean> {
    const line = await this.read("line");
    if (line === undefined) return false;
    this.peer = { ...JSON.parse(line.toString()), localPort: this.socket.localPort };
    return true;
  }

  /** Whether `bytes` bytes that nobody else sends come back unchanged. */
  async echo(bytes: number): Promise<boolean> {
    const token = `${this.socket.localPort}-${Math.random().toString(36).slice(2)}|`;
    const message = Buffer.from(token.repeat(Math.ceil(bytes / token.length)).slice(0, bytes));
    this.socket.write(message);
    return (await this.read(bytes))?.equals(message) === true;
  }

  /** FIN, and the peer's FIN after it. */
  async end(): Promise<boolean> {
    this.socket.end();
    await this.read(2 ** 30);
    const ok = this.ended === "fin";
    this.socket.destroy();
    return ok;
  }
}

const talks: Talk[] = [];

type Done = Omit<Answer, "errors">;

async function open(count: number, localPort?: number): Promise<Done> {
  const made = Array.from({ length: count }, () => new Talk(localPort));
  const greeted = await Promise.all(made.map((talk) => talk.greeted()));
  talks.push(...made.filter((_, i) => greeted[i]));
  for (const [i, talk] of made.entries()) if (!greeted[i]) talk.socket.destroy();
  return {
    ok: greeted.filter(Boolean).length,
    failed: greeted.filter((g) => !g).length,
    talks: made.flatMap((talk) => talk.peer ?? []),
  };
}

async function all(work: (talk: Talk) => Promise<boolean>): Promise<Done> {
  const done = await Promise.all(talks.map(work));
  return {
    ok: done.filter(Boolean).length,
    failed: done.filter((d) => !d).length,
    talks: talks.flatMap((talk, i) => (done[i] && talk.peer ? talk.peer : [])),
  };
}

/** `count` connections, `concurrency` at a time, each of random length and ended in a random way. */
async function churn(count: number, concurrency: number, seed: number): Promise<Done> {
  let state = seed;
  const next = () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
  let left = count;
  let ok = 0;
  let bytes = 0;
  const names = new Set<string>();
  const one = async () => {
    while (left > 0) {
      left -= 1;
      const talk = new Talk();
      let good = await talk.greeted();
      for (let i = Math.floor(next() * 4); good && i > 0; i--) {
        const length = 1 + Math.floor(next() ** 4 * 100_000);
        bytes += length;
        good = await talk.echo(length);
      }
      if (good && next() < 0.2) talk.socket.resetAndDestroy();
      else good = good && (await talk.end());
      if (good && talk.peer) {
        ok += 1;
        names.add(talk.peer.name);
      }
      talk.socket.destroy();
      await sleep(next() * 10);
    }
  };
  await Promise.all(Array.from({ length: concurrency }, one));
  return { ok, failed: count - ok, talks: [], bytes, names: [...names].sort() };
}

/** One connection after the other from one port; each ended by the server's FIN first when `server` says so. */
async function again(localPort: number, times: number, closer: "client" | "server"): Promise<Done> {
  let ok = 0;
  let slowestMs = 0;
  for (let i = 0; i < times; i++) {
    let begun = performance.now();
    let talk = new Talk(localPort);
    let good = await talk.greeted();
    // Our own kernel still waits for the last acknowledgement: no packet was sent.
    for (let n = 0; n < 500 && errors.EADDRNOTAVAIL !== undefined; n++) {
      errors = {};
      await sleep(2);
      begun = performance.now();
      talk = new Talk(localPort);
      good = await talk.greeted();
    }
    slowestMs = Math.max(slowestMs, performance.now() - begun);
    if (closer === "server" && good) {
      talk.socket.write("H");
      good = (await talk.read("line"))?.toString() === "over\n";
      await talk.read(1);
      talk.socket.end();
    } else if (good) {
      good = await talk.echo(100);
      talk.socket.resetAndDestroy();
    }
    if (!talk.socket.closed) await new Promise((done) => talk.socket.once("close", done));
    if (good) ok += 1;
  }
  return { ok, failed: times - ok, talks: [], slowestMs };
}

/** The server ends first; `bytes` go to it nevertheless. */
async function half(bytes: number): Promise<Done> {
  const talk = new Talk();
  let good = await talk.greeted();
  talk.socket.write("H");
  good = good && (await talk.read("line"))?.toString() === "over\n";
  await talk.read(1);
  good = good && talk.ended === "fin";
  talk.socket.end(Buffer.alloc(bytes - 1, "x"));
  await new Promise((done) => talk.socket.once("close", done));
  return { ok: good ? 1 : 0, failed: good ? 0 : 1, talks: [] };
}

/** How long answers that are known to come may take. */
const PATIENCE_MS = 15_000;

async function datagrams(texts: string[], waitMs: number, localPort = 0, wanted = 0): Promise<Done> {
  // Twice the usual buffer: forty datagrams of three fragments each overflow that while this process waits for its turn.
  const socket = createSocket({ type: host.includes(":") ? "udp6" : "udp4", recvBufferSize: 212_992 });
  const answers: string[] = [];
  socket.on("message", (message) => answers.push(message.toString()));
  socket.on("error", () => undefined);
  if (localPort !== 0) await new Promise<void>((done) => socket.bind(localPort, done));
  await new Promise<void>((done) => socket.connect(Number(port), host, done));
  for (const [i, text] of texts.entries()) {
    socket.send(Buffer.from(text));
    if (i % 16 === 15) await sleep(1);
  }
  const end = performance.now() + PATIENCE_MS;
  while (answers.length < wanted && performance.now() < end) await sleep(10);
  await sleep(waitMs);
  socket.close();
  return { ok: answers.length, failed: 0, talks: [], answers };
}

async function obey(command: Command): Promise<Done> {
  switch (command.do) {
    case "open":
      return open(command.count, command.localPort);
    case "ping":
      return all((talk) => talk.echo(command.bytes ?? 100));
    case "close": {
      const closed = await all((talk) => talk.end());
      talks.length = 0;
      return closed;
    }
    case "reset":
      for (const talk of talks.splice(0)) talk.socket.resetAndDestroy();
      return { ok: 0, failed: 0, talks: [] };
    case "ended":
      return {
        ok: talks.filter((t) => t.ended === undefined).length,
        failed: talks.filter((t) => t.ended !== undefined).length,
        talks: talks.flatMap((t) => (t.ended !== undefined && t.peer ? t.peer : [])),
      };
    case "churn":
      return churn(command.count, command.concurrency, command.seed);
    case "again":
      return again(command.localPort, command.times, command.closer);
    case "half":
      return half(command.bytes);
    case "datagrams":
      return datagrams(command.texts, command.waitMs, command.localPort, command.wanted);
  }
}

console.log("{}");
for await (const line of createInterface({ input: process.stdin })) {
  errors = {};
  console.log(JSON.stringify({ ...(await obey(JSON.parse(line) as Command)), errors }));
}
process.exit(0);
