/** One question to one DNS server: a datagram, and TCP when the answer does not fit one. Never rejects. */
import { randomInt } from "node:crypto";
import { createSocket } from "node:dgram";
import { Socket } from "node:net";
import { type Answer, encodeQuestion, type Question, type RecordType, readAnswer } from "./message.ts";

/** Where a DNS server listens. */
export type DnsServer = { host: string; port: number };

/** Datagrams that are no answer to the question, before the rest is not looked at. */
const MOST_STRAYS = 64;

/** Asks `server`, which has `timeoutMs` for each of the two ways, until `signal` gives it up. */
export async function exchange(
  server: DnsServer,
  name: string,
  type: RecordType,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Answer> {
  // The id is hard to guess, as is the port that the kernel takes for each new socket (RFC 5452).
  const question = { id: randomInt(0x1_0000), name, type };
  const answer = await byDatagram(server, question, timeoutMs, signal);
  if (answer.kind !== "truncated") return answer;
  const whole = await byStream(server, question, timeoutMs, signal);
  return whole.kind === "truncated"
    ? { kind: "failed", cause: "the DNS server cuts its answer by TCP, too" }
    : whole;
}

function byDatagram(
  { host, port }: DnsServer,
  question: Question,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Answer> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve(GIVEN_UP);
    const socket = createSocket({ type: host.includes(":") ? "udp6" : "udp4" });
    const finish = (answer: Answer) => {
      clearTimeout(timer);
      signal.removeEventListener("abort", giveUp);
      socket.removeAllListeners("message");
      // One that is closed already throws.
      if (!closed) socket.close();
      closed = true;
      resolve(answer);
    };
    let closed = false;
    let strays = 0;
    const giveUp = () => finish(GIVEN_UP);
    signal.addEventListener("abort", giveUp);
    const timer = setTimeout(() => finish(silence(timeoutMs)), timeoutMs);
    socket.on("error", (error) => finish(failure(error)));
    socket.on("message", (bytes) => {
      const answer = readAnswer(bytes, question);
      if (answer !== undefined) finish(answer);
      else if (++strays === MOST_STRAYS) finish({ kind: "failed", cause: "answers to other questions" });
    });
    // Connected, the kernel passes nobody else's datagrams on.
    // What @types/node does not know: the callback hears of a connect that failed.
    const connected = (error?: Error) => {
      if (error !== undefined) finish(failure(error));
      else if (!closed) socket.send(encodeQuestion(question), (error) => error && finish(failure(error)));
    };
    socket.connect(port, host, connected);
  });
}

function byStream(
  { host, port }: DnsServer,
  question: Question,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Answer> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve(GIVEN_UP);
    const socket = new Socket();
    let received = Buffer.alloc(0);
    const finish = (answer: Answer) => {
      clearTimeout(timer);
      signal.removeEventListener("abort", giveUp);
      socket.destroy();
      resolve(answer);
    };
    const giveUp = () => finish(GIVEN_UP);
    signal.addEventListener("abort", giveUp);
    const timer = setTimeout(() => finish(silence(timeoutMs)), timeoutMs);
    socket.on("error", (error) => finish(failure(error)));
    socket.on("close", () => finish({ kind: "failed", cause: "the DNS server closed the connection" }));
    socket.on("connect", () => {
      const bytes = encodeQuestion(question);
      const length = Buffer.alloc(2);
      length.writeUInt16BE(bytes.length);
      socket.write(Buffer.concat([length, bytes]));
    });
    socket.on("data", (bytes) => {
      received = Buffer.concat([received, bytes]);
      if (received.length < 2) return;
      const end = 2 + received.readUInt16BE(0);
      if (received.length < end) return;
      const answer = readAnswer(received.subarray(2, end), question);
      finish(answer ?? { kind: "failed", cause: "an answer to another question" });
    });
    socket.connect({ host, port, autoSelectFamily: false });
  });
}

const GIVEN_UP: Answer = { kind: "failed", cause: "given up" };

const silence = (timeoutMs: number): Answer => ({
  kind: "failed",
  cause: `no answer within ${timeoutMs} ms`,
});

function failure(error: NodeJS.ErrnoException): Answer {
  const cause = error.code === undefined ? error.message : `the DNS server cannot be asked (${error.code})`;
  return { kind: "failed", cause };
}
