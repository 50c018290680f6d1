/**
 * Checks that say something over a connection: TLS, HTTP, or bytes. A server can make one fail and no more: what is
 * read is bounded, time is bounded by whoever asked, redirects are answers like others, and no connection is reused.
 */
import { request } from "node:http";
import { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { connect as connectTls, type SecureContext } from "node:tls";
import { getSystemErrorName } from "node:util";
import { hostPort } from "../../config/address.ts";
import { isListed } from "../../config/status-list.ts";
import { loadDataplane } from "../../native/index.ts";
import type { StreamAsk, TlsAsk } from "./ask.ts";
import { Heard, MOST_HEARD } from "./heard.ts";
import { excerpt, type GiveUp, type Outcome, outcomeOf, unixOutcomeOf } from "./outcome.ts";
import {
  type Beginning,
  connectedToItself,
  failLater,
  type OpenFrom,
  openSocket,
  SELF_CONNECT,
} from "./probe.ts";
import { builtInTrust, trustIn } from "./trust.ts";

/** Where a check goes. A path that begins with `@` is an abstract name. */
export type Endpoint = { host: string; port: number } | { path: string };

/** Bytes of the header of a response at most. */
const MOST_HEADER = 16 * 1024;

type Done = (outcome: Outcome) => void;

/** A check under way. */
class Talk {
  readonly #done: Done;
  readonly #outcomeOf: (error: NodeJS.ErrnoException) => Outcome;
  #socket: Socket;
  #settled = false;
  /** How far it got, for when its time is over. */
  stage = "";
  answer: string | undefined;
  /** Where errors come from that are no system call's. */
  layer = "";

  constructor(socket: Socket, at: Endpoint, done: Done) {
    this.#socket = socket;
    this.#done = done;
    this.#outcomeOf = "path" in at ? unixOutcomeOf : outcomeOf;
  }

  get socket(): Socket {
    return this.#socket;
  }

  /** Goes on over a connection that stands. */
  adopt(fd: number): void {
    this.#socket = new Socket({ fd, readable: true, writable: true });
  }

  get settled(): boolean {
    return this.#settled;
  }

  end(outcome: Outcome): void {
    if (this.#settled) return;
    this.giveUp();
    this.#done(
      this.answer === undefined || outcome.kind === "local" ? outcome : { answer: this.answer, ...outcome },
    );
  }

  fail(cause: string): void {
    this.end({ kind: "failed", cause });
  }

  readonly failed = (error: NodeJS.ErrnoException): void => {
    const outcome = this.#outcomeOf(error);
    const isOurs = outcome.kind === "failed" && error.syscall === undefined && this.layer !== "";
    const code = error.code === undefined ? "" : ` (${error.code})`;
    this.end(isOurs ? { kind: "failed", cause: `${this.layer}: ${excerpt(error.message)}${code}` } : outcome);
  };

  readonly giveUp = (): void => {
    this.#settled = true;
    this.#socket.destroy();
  };

  whenLate(timeoutMs: number): Outcome {
    const heard = this.answer === undefined ? {} : { answer: this.answer };
    if (this.stage === "") return { kind: "failed", cause: `no answer within ${timeoutMs} ms`, silent: true };
    return { kind: "failed", cause: `${this.stage} within ${timeoutMs} ms`, silent: true, ...heard };
  }
}

/** Asks once; `first` is sent before anything else, TLS included. As `probeTcp()`. */
export function askByStream(
  at: Endpoint,
  ask: StreamAsk,
  done: Done,
  { source, first }: Beginning = {},
  openFrom?: OpenFrom,
): GiveUp {
  const opened = openSocket("port" in at ? source : undefined, openFrom);
  if ("failure" in opened) return failLater(opened.failure, done);
  const talk = new Talk(opened.socket, at, done);
  const begin = (trust: SecureContext | undefined): void => {
    const { socket } = talk;
    socket.on("error", talk.failed);
    const connected = (): void => {
      if ("port" in at && connectedToItself(socket, at.port)) {
        talk.end(SELF_CONNECT);
        return;
      }
      if (first !== undefined) socket.write(first);
      if (ask.tls === undefined || trust === undefined) converse(talk, socket, at, ask);
      else secure(talk, at, ask.tls, trust, (stream) => converse(talk, stream, at, ask));
    };
    socket.unref();
    if (isAbstract(at)) {
      connected();
      return;
    }
    socket.on("connect", connected);
    socket.setNoDelay(true);
    socket.connect("path" in at ? at : { ...at, autoSelectFamily: false });
  };
  const { tls } = ask;
  const beginTrusting = (): void => {
    if (tls?.ca === undefined) begin(tls && builtInTrust());
    else void trusting(talk, tls.ca, begin);
  };
  if (isAbstract(at)) void adopting(talk, at.path.slice(1), beginTrusting);
  else beginTrusting();
  return Object.assign(talk.giveUp, { whenLate: (timeoutMs: number) => talk.whenLate(timeoutMs) });
}

const isAbstract = (at: Endpoint): at is { path: string } => "path" in at && at.path.startsWith("@");

/** Node.js itself finds no abstract socket but its own: it pads their names. */
async function adopting(talk: Talk, name: string, begin: () => void): Promise<void> {
  try {
    const { connectAbstract } = await loadDataplane();
    if (talk.settled) return;
    const fd = connectAbstract(name);
    if (fd < 0) {
      const code = getSystemErrorName(fd);
      talk.failed(Object.assign(new Error(code), { code, syscall: "connect" }));
      return;
    }
    talk.adopt(fd);
  } catch (error) {
    talk.end({ kind: "local", cause: excerpt(error instanceof Error ? error.message : String(error)) });
    return;
  }
  begin();
}

async function trusting(talk: Talk, file: string, begin: (trust: SecureContext) => void): Promise<void> {
  const trust = await trustIn(file);
  if (talk.settled) return;
  if (trust.ok) begin(trust.context);
  else talk.end({ kind: "local", cause: `tls_ca ${excerpt(file)} ${trust.message}` });
}

function secure(
  talk: Talk,
  at: Endpoint,
  { name, verify }: TlsAsk,
  secureContext: SecureContext,
  begin: (stream: Duplex) => void,
): void {
  talk.stage = "the TLS handshake did not end";
  talk.layer = "TLS";
  const stream = connectTls({
    socket: talk.socket,
    secureContext,
    rejectUnauthorized: verify,
    servername: name ?? "",
    // What a certificate has to be for where no name is asked for.
    ...("host" in at ? { host: at.host } : {}),
  });
  // A server that ends it with a FIN says no error.
  const closed = (): void => talk.fail("the server closed during the TLS handshake");
  stream.on("error", talk.failed);
  stream.on("close", closed);
  stream.on("secureConnect", () => {
    stream.off("close", closed);
    begin(stream);
  });
}

function converse(talk: Talk, stream: Duplex, at: Endpoint, ask: StreamAsk): void {
  switch (ask.kind) {
    case "connect":
      talk.end({ kind: "ok", ...(ask.tls ? { cause: "TLS handshake done" } : {}) });
      break;
    case "http":
      converseHttp(talk, stream, at, ask);
      break;
    case "exchange":
      exchange(talk, stream, ask);
      break;
  }
}

function exchange(
  talk: Talk,
  stream: Duplex,
  { send, expect }: Extract<StreamAsk, { kind: "exchange" }>,
): void {
  const heard = new Heard();
  const lacks = expect.length === 0 ? "" : "an answer without the expected text";
  talk.stage = "no answer";
  stream.on("data", (chunk: Buffer) => {
    heard.add(chunk);
    talk.answer = excerpt(heard.bytes);
    talk.stage = lacks;
    if (heard.has(expect)) talk.end({ kind: "ok", cause: "answered as expected" });
    else if (heard.full) talk.fail(`${lacks} in its first ${MOST_HEARD / 1024} KiB`);
  });
  stream.on("end", () =>
    talk.fail(heard.length === 0 ? "closed without an answer" : `closed after ${lacks}`),
  );
  if (send.length > 0) stream.write(send);
}

function converseHttp(
  talk: Talk,
  stream: Duplex,
  at: Endpoint,
  { method, path, host, statuses, body }: Extract<StreamAsk, { kind: "http" }>,
): void {
  talk.stage = "no response";
  talk.layer = "no HTTP";
  // Agents are for connections that are used again.
  const asked = request({
    createConnection: () => stream,
    method,
    path,
    maxHeaderSize: MOST_HEADER,
    headers: {
      host: host ?? authority(at),
      "user-agent": "convey-health-check",
      accept: "*/*",
      connection: "close",
    },
  });
  asked.on("error", (error: NodeJS.ErrnoException & { rawPacket?: Buffer }) => {
    if (error.rawPacket !== undefined) talk.answer ??= excerpt(error.rawPacket);
    if (error.code === "ECONNRESET" && error.syscall === undefined) talk.fail("closed without a response");
    else talk.failed(error);
  });
  // Responses before the last one have no end but time, and are kept by nobody.
  asked.on("information", () => {
    if (talk.socket.bytesRead > MOST_HEARD) talk.fail("no end of informational responses");
  });
  asked.on("upgrade", () => talk.fail("status 101, which ends no request"));
  asked.on("response", (response) => {
    const status = response.statusCode ?? 0;
    talk.answer = excerpt(`HTTP/${response.httpVersion} ${status} ${response.statusMessage ?? ""}`.trimEnd());
    response.on("error", talk.failed);
    const ok = (): void => talk.end({ kind: "ok", cause: `status ${status}` });
    if (!isListed(statuses, status)) {
      talk.fail(`unexpected status ${status}`);
      return;
    }
    if (body === undefined) {
      ok();
      return;
    }
    const heard = new Heard();
    talk.stage = "a body without the expected text";
    response.on("data", (chunk: Buffer) => {
      heard.add(chunk);
      if (heard.has(body)) ok();
      else if (heard.full) talk.fail(`status ${status}, ${talk.stage} in its first ${MOST_HEARD / 1024} KiB`);
    });
    response.on("end", () => (heard.has(body) ? ok() : talk.fail(`status ${status}, ${talk.stage}`)));
  });
  asked.end();
}

/** The Host of a request to it. */
export const authority = (at: Endpoint): string =>
  "path" in at ? "localhost" : at.port === 80 || at.port === 443 ? bracketed(at.host) : hostPort(at);

const bracketed = (host: string): string => (host.includes(":") ? `[${host}]` : host);
