/** DNS servers for tests: one of our own that says what it is told to, and dnsmasq. */
import { createSocket } from "node:dgram";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type Answer,
  AUTHORITATIVE_ANSWER,
  decode,
  encode,
  type Packet,
  TRUNCATED_RESPONSE,
} from "dns-packet";
import { start } from "./processes.ts";

/** What a name has: records, or how it is refused. */
export type Zone = Map<string, Answer[]>;

export type DnsStandIn = AsyncDisposable & {
  /** `ip:port`. */
  address: string;
  /** "TYPE name" → records; a name without any entry does not exist. */
  zone: Zone;
  /** Answers with this code, or not at all, whatever is asked. */
  mood: { rcode?: number; silent?: boolean; truncated?: boolean; raw?: (query: Buffer) => Buffer };
  /** Questions so far, "udp A name". */
  asked: string[];
};

/** A server with a zone that tests change while it runs. */
export async function dnsServer(): Promise<DnsStandIn> {
  const zone: Zone = new Map();
  const mood: DnsStandIn["mood"] = {};
  const asked: string[] = [];
  const answer = (query: Buffer, by: "udp" | "tcp"): Buffer | undefined => {
    const packet = decode(query);
    const question = packet.questions?.[0];
    if (question === undefined) return undefined;
    asked.push(`${by} ${question.type} ${question.name}`);
    if (mood.silent) return undefined;
    if (mood.raw !== undefined) return mood.raw(query);
    return encode(reply(packet, zone, mood, by));
  };
  const stream = createServer((socket) => {
    socket.on("error", () => undefined);
    socket.once("data", (bytes) => {
      const bytesOut = answer(bytes.subarray(2), "tcp");
      if (bytesOut === undefined) return;
      const length = Buffer.alloc(2);
      length.writeUInt16BE(bytesOut.length);
      socket.end(Buffer.concat([length, bytesOut]));
    });
  });
  await new Promise<void>((resolve) => stream.listen(0, "127.0.0.1", resolve));
  const { port } = stream.address() as { port: number };
  const datagrams = createSocket("udp4");
  datagrams.on("message", (query, from) => {
    const bytes = answer(query, "udp");
    if (bytes !== undefined) datagrams.send(bytes, from.port, from.address);
  });
  await new Promise<void>((resolve) => datagrams.bind(port, "127.0.0.1", resolve));
  return {
    address: `127.0.0.1:${port}`,
    zone,
    mood,
    asked,
    [Symbol.asyncDispose]: async () => {
      datagrams.close();
      await new Promise((resolve) => stream.close(resolve));
    },
  };
}

function reply(packet: Packet, zone: Zone, mood: DnsStandIn["mood"], by: "udp" | "tcp"): Packet {
  const question = packet.questions?.[0] as { name: string; type: string };
  const head = { type: "response", id: packet.id, questions: packet.questions } as const;
  if (mood.rcode !== undefined) return { ...head, flags: AUTHORITATIVE_ANSWER | mood.rcode } as Packet;
  if (mood.truncated && by === "udp")
    return { ...head, flags: AUTHORITATIVE_ANSWER | TRUNCATED_RESPONSE } as Packet;
  const name = question.name.toLowerCase();
  const known = [...zone.keys()].some((key) => key.endsWith(` ${name}`));
  const answers = zone.get(`${question.type} ${name}`) ?? zone.get(`CNAME ${name}`) ?? [];
  return { ...head, flags: AUTHORITATIVE_ANSWER | (known ? 0 : 3), answers } as Packet;
}

/** `A` or `AAAA` records. */
export const addresses = (name: string, list: readonly string[], ttl = 1): Answer[] =>
  list.map((data) => ({ type: data.includes(":") ? "AAAA" : "A", name, ttl, data }));

/** An `SRV` record. */
export const srv = (
  name: string,
  target: string,
  port: number,
  priority = 0,
  weight = 0,
  ttl = 1,
): Answer => ({
  type: "SRV",
  name,
  ttl,
  data: { priority, weight, port, target },
});

/** dnsmasq with a file of hosts that can be written anew; `prefix` is a command that runs it elsewhere. */
export async function dnsmasq(
  hosts: string,
  options: readonly string[] = [],
  prefix: readonly string[] = [],
) {
  const folder = mkdtempSync(join(tmpdir(), "convey-dnsmasq-"));
  const file = join(folder, "hosts");
  writeFileSync(file, hosts);
  // It cannot be told to choose a port: one that was free a moment ago.
  const { address, ...probe } = await dnsServer();
  await probe[Symbol.asyncDispose]();
  const port = address.split(":")[1] as string;
  const running = start([
    ...prefix,
    "dnsmasq",
    "--keep-in-foreground",
    "--conf-file=/dev/null",
    "--user=root",
    "--pid-file=",
    "--log-facility=-",
    `--port=${port}`,
    "--listen-address=127.0.0.1",
    "--bind-interfaces",
    "--no-resolv",
    "--no-hosts",
    "--local=/test/",
    "--local-ttl=1",
    `--addn-hosts=${file}`,
    ...options,
  ]);
  await running.waitFor(/dnsmasq.*started|started, version/);
  return {
    address,
    running,
    /** Other hosts from now on. */
    write: (text: string) => {
      writeFileSync(file, text);
      running.child.kill("SIGHUP");
    },
    [Symbol.asyncDispose]: async () => {
      await running[Symbol.asyncDispose]();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
