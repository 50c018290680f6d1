/** Conversations in a packet lab: a server that tells what it sees, and a client that holds connections. */
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { transformSync } from "esbuild";
import { type Running, start, until } from "../../support/processes.ts";
import { FAMILIES, type PacketLab, type Place, SERVERS } from "./lab.ts";

/** TCP and UDP. */
export const TALK = 9010;

/** What the server says of a connection when it begins. */
export interface Conversation {
  /** The server. */
  name: string;
  /** The client, as the server sees it. */
  from: string;
  fromPort: number;
  /** The address the server was reached at. */
  at: string;
  /** The client's own port. */
  localPort: number;
}

export type Command =
  /** Opens connections and keeps them. */
  | { do: "open"; count: number; localPort?: number }
  /** Has every open connection echo bytes that nobody else sends. */
  | { do: "ping"; bytes?: number }
  /** Ends every open connection and waits for the other side's end. */
  | { do: "close" }
  /** Cuts every open connection. */
  | { do: "reset" }
  /** Tells which open connections the other side has ended: those failed. */
  | { do: "ended" }
  | { do: "churn"; count: number; concurrency: number; seed: number }
  | { do: "again"; localPort: number; times: number; closer: "client" | "server" }
  | { do: "half"; bytes: number }
  /** Tells what is answered until `waitMs` after the last is sent, or after as many answers as are `wanted`. */
  | { do: "datagrams"; texts: string[]; waitMs: number; localPort?: number; wanted?: number };

export interface Answer {
  ok: number;
  failed: number;
  talks: Conversation[];
  /** Errors of sockets meanwhile, by code. */
  errors: Record<string, number>;
  bytes?: number;
  names?: string[];
  slowestMs?: number;
  answers?: string[];
}

const compiled = new Map<string, string>();

/** The command line of a program of this folder that imports nothing but types from its neighbours. */
export function program(file: string, ...args: string[]): string[] {
  const script = compiled.get(file) ?? compile(file);
  compiled.set(file, script);
  return [process.execPath, script, ...args];
}

/** Compiled once, here: a compiler in each of the processes would cost a second of start-up. */
function compile(file: string): string {
  const { code } = transformSync(readFileSync(join(import.meta.dirname, file), "utf8"), {
    loader: "ts",
    format: "esm",
    target: "es2022",
  });
  const folder = resolve(import.meta.dirname, "../../../target/net");
  const hash = createHash("sha256").update(code).digest("hex").slice(0, 16);
  const script = join(folder, `${file.replace(/\.ts$/, "")}-${hash}.mjs`);
  mkdirSync(folder, { recursive: true });
  // Renamed into place: another run may read it at this moment.
  writeFileSync(`${script}.${process.pid}`, code);
  renameSync(`${script}.${process.pid}`, script);
  return script;
}

type Server = (typeof SERVERS)[number];

function serverProgram(lab: PacketLab, place: Server, vip: boolean): string[] {
  const addresses = [
    ...FAMILIES.map((family) => lab.server(place, family)),
    ...(vip ? FAMILIES.map((family) => lab.vip(family)) : []),
  ];
  return program("talk-server.ts", place, String(TALK), ...addresses);
}

/** The servers' side, on every server of a lab. */
export class TalkServers implements AsyncDisposable {
  readonly on: Record<Server, Running>;

  private constructor(on: TalkServers["on"]) {
    this.on = on;
  }

  /** `vip`: whether servers hold the VIP themselves and answer datagrams from it. */
  static async start(lab: PacketLab, vip: boolean): Promise<TalkServers> {
    const at = (place: Server) => start(lab.at(place, ...serverProgram(lab, place, vip)));
    const servers = new TalkServers({
      server1: at("server1"),
      server2: at("server2"),
      server3: at("server3"),
    });
    for (const place of SERVERS) await servers.#listening(lab, place, vip);
    return servers;
  }

  /** Starts a server again that was killed. */
  async restart(lab: PacketLab, place: Server, vip: boolean): Promise<void> {
    await this.on[place].exited;
    this.on[place] = start(lab.at(place, ...serverProgram(lab, place, vip)));
    await this.#listening(lab, place, vip);
  }

  async #listening(lab: PacketLab, place: Server, vip: boolean): Promise<void> {
    await until(
      async () => {
        const listening = await lab.sh(place, "ss -Hltn; ss -Hlun");
        return listening.split(`:${TALK} `).length > (vip ? 5 : 3);
      },
      `the talking server of ${place}`,
      20_000,
      () => this.on[place].output(),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(SERVERS.map((place) => this.on[place].stop("SIGKILL")));
  }
}

/** A client that holds connections. `await using` ends it. */
export class Talker implements AsyncDisposable {
  readonly #process: Running;
  #answers = 1;

  private constructor(process: Running) {
    this.#process = process;
  }

  /** `prefix`: words to put before its command line. */
  static async start(
    lab: PacketLab,
    address: string,
    place: Place = "client",
    prefix: readonly string[] = [],
  ): Promise<Talker> {
    const command = [...prefix, ...program("talk-client.ts", address, String(TALK))];
    const running = start(lab.at(place, ...command), { stdin: true });
    await running.waitFor(/^\{\}$/m, 20_000);
    return new Talker(running);
  }

  async ask(command: Command, timeoutMs = 30_000): Promise<Answer> {
    this.#process.child.stdin?.write(`${JSON.stringify(command)}\n`);
    const wanted = ++this.#answers;
    const line = await until(
      () => {
        const lines = this.#process.stdout.split("\n");
        return lines.length > wanted ? lines[wanted - 1] : undefined;
      },
      `answer to ${JSON.stringify(command).slice(0, 200)}`,
      timeoutMs,
      () => this.#process.output(),
    );
    return JSON.parse(line) as Answer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process.stop("SIGKILL");
  }
}
