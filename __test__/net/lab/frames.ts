/** Raw frames in a packet lab: built from their meaning, put on a link, and captured from one. */
import { setTimeout as sleep } from "node:timers/promises";
import { start } from "../../support/processes.ts";
import { example } from "./examples.ts";
import type { PacketLab, Place } from "./lab.ts";

export const TCP = 6;
export const UDP = 17;
export const FLAGS = { fin: 1, syn: 2, rst: 4, psh: 8, ack: 16 } as const;

export interface IpSpec {
  source: string;
  destination: string;
  protocol: number;
  payload: Buffer;
  ttl?: number;
  /** A multiple of four bytes. */
  options?: Buffer;
  /** Flags and offset of fragments, as in the header. */
  fragment?: number;
}

export function ethernet(to: string, from: string, type: number, payload: Buffer): Buffer {
  const mac = (text: string) => Buffer.from(text.replaceAll(":", ""), "hex");
  return Buffer.concat([mac(to), mac(from), u16(type), payload]);
}

export function ipv4(spec: IpSpec): Buffer {
  const options = spec.options ?? Buffer.alloc(0);
  const header = Buffer.concat([
    Buffer.from([0x45 + options.length / 4, 0]),
    u16(20 + options.length + spec.payload.length),
    u16(0x1234),
    u16(spec.fragment ?? 0x4000),
    Buffer.from([spec.ttl ?? 64, spec.protocol, 0, 0]),
    address(spec.source),
    address(spec.destination),
    options,
  ]);
  header.writeUInt16BE(checksum(header), 10);
  return Buffer.concat([header, spec.payload]);
}

export interface TcpSpec {
  source: string;
  sourcePort: number;
  destination: string;
  destinationPort: number;
  flags: number;
  seq?: number;
  ack?: number;
  payload?: Buffer;
  ttl?: number;
  options?: Buffer;
}

export function tcp(spec: TcpSpec): Buffer {
  const segment = Buffer.alloc(20);
  segment.writeUInt16BE(spec.sourcePort, 0);
  segment.writeUInt16BE(spec.destinationPort, 2);
  segment.writeUInt32BE(spec.seq ?? 1000, 4);
  segment.writeUInt32BE(spec.ack ?? 0, 8);
  segment[12] = 0x50;
  segment[13] = spec.flags;
  segment.writeUInt16BE(64_000, 14);
  const payload = Buffer.concat([segment, spec.payload ?? Buffer.alloc(0)]);
  payload.writeUInt16BE(transportSum(spec.source, spec.destination, TCP, payload), 16);
  return ipv4({ ...spec, protocol: TCP, payload });
}

export function udp(
  spec: Omit<TcpSpec, "flags" | "seq" | "ack"> & { payload: Buffer; fragment?: number },
): Buffer {
  const payload = Buffer.concat([
    u16(spec.sourcePort),
    u16(spec.destinationPort),
    u16(8 + spec.payload.length),
    u16(0),
    spec.payload,
  ]);
  payload.writeUInt16BE(transportSum(spec.source, spec.destination, UDP, payload), 6);
  return ipv4({ ...spec, protocol: UDP, payload });
}

/** The IP packets of a UDP datagram in fragments of `size` bytes, a multiple of eight, in order; either family. */
export function fragments(spec: {
  source: string;
  sourcePort: number;
  destination: string;
  destinationPort: number;
  payload: Buffer;
  id: number;
  size: number;
}): Buffer[] {
  const { source, destination, id, size } = spec;
  const datagram = Buffer.concat([
    u16(spec.sourcePort),
    u16(spec.destinationPort),
    u16(8 + spec.payload.length),
    u16(0),
    spec.payload,
  ]);
  datagram.writeUInt16BE(transportSum(source, destination, UDP, datagram), 6);
  const packets: Buffer[] = [];
  for (let at = 0; at < datagram.length; at += size) {
    const payload = datagram.subarray(at, at + size);
    const hasMore = at + size < datagram.length;
    if (source.includes(":")) {
      const header = Buffer.from([UDP, 0, 0, 0, 0, 0, 0, 0]);
      header.writeUInt16BE(at | Number(hasMore), 2);
      header.writeUInt32BE(id, 4);
      packets.push(ipv6({ source, destination, next: 44, payload: Buffer.concat([header, payload]) }));
    } else {
      const packet = ipv4({
        source,
        destination,
        protocol: UDP,
        payload,
        fragment: (hasMore ? 0x2000 : 0) | (at / 8),
      });
      packet.writeUInt16BE(id, 4);
      packet.writeUInt16BE(0, 10);
      packet.writeUInt16BE(checksum(packet.subarray(0, 20)), 10);
      packets.push(packet);
    }
  }
  return packets;
}

function ipv6(spec: { source: string; destination: string; next: number; payload: Buffer }): Buffer {
  return Buffer.concat([
    Buffer.from([0x60, 0, 0, 0]),
    u16(spec.payload.length),
    Buffer.from([spec.next, 64]),
    address(spec.source),
    address(spec.destination),
    spec.payload,
  ]);
}

/** Destination Unreachable with this code about a packet, of which the header and eight bytes are quoted. */
export function unreachable(spec: {
  source: string;
  destination: string;
  code: number;
  mtu?: number;
  about: Buffer;
}): Buffer {
  const message = Buffer.concat([
    Buffer.from([3, spec.code, 0, 0, 0, 0]),
    u16(spec.mtu ?? 0),
    spec.about.subarray(0, 28),
  ]);
  message.writeUInt16BE(checksum(message), 2);
  return ipv4({ source: spec.source, destination: spec.destination, protocol: 1, payload: message });
}

/** Parts of a frame that carries IPv4. */
export function dissect(frame: Buffer) {
  const ip = frame.subarray(14);
  const header = ((ip[0] ?? 0) & 15) * 4;
  const total = ip.readUInt16BE(2);
  const dotted = (at: number) => [...ip.subarray(at, at + 4)].join(".");
  return {
    header,
    total,
    ttl: ip[8],
    protocol: ip[9],
    source: dotted(12),
    destination: dotted(16),
    headerSum: checksum(ip.subarray(0, header)),
    transport: ip.subarray(header, total),
  };
}

/** 0 when the checksum of a packet's transport is right; how far it is off otherwise. */
export function transportError(frame: Buffer): number {
  const { source, destination, protocol = 0, transport } = dissect(frame);
  return transportSum(source, destination, protocol, transport);
}

/** The Internet checksum over all bytes. */
export function checksum(bytes: Buffer, begin = 0): number {
  let sum = begin;
  for (let i = 0; i < bytes.length; i += 2) sum += ((bytes[i] ?? 0) << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

function transportSum(source: string, destination: string, protocol: number, segment: Buffer): number {
  const pseudo = Buffer.concat([address(source), address(destination), u16(protocol), u16(segment.length)]);
  return checksum(Buffer.concat([pseudo, segment]));
}

function address(text: string): Buffer {
  if (!text.includes(":")) return Buffer.from(text.split(".").map(Number));
  const [head = [], tail = []] = text
    .split("::")
    .map((half) => half.split(":").filter((word) => word !== ""));
  const words = [...head, ...Array<string>(8 - head.length - tail.length).fill("0"), ...tail];
  return Buffer.concat(words.map((word) => u16(Number.parseInt(word, 16))));
}

function u16(value: number): Buffer {
  return Buffer.from([(value >>> 8) & 255, value & 255]);
}

/** Puts frames on the link of a device, as they are. */
export async function inject(
  lab: PacketLab,
  place: Place,
  device: string,
  frames: readonly Buffer[],
): Promise<void> {
  await using injector = start(lab.at(place, await example("inject"), device), { stdin: true });
  injector.child.stdin?.end(`${frames.map((frame) => frame.toString("hex")).join("\n")}\n`);
  const [, sent] = await injector.waitFor(/^sent (\d+)$/m, 20_000);
  if (Number(sent) !== frames.length) throw new Error(`${sent} of ${frames.length} frames were sent`);
}

/** Frames that arrive at a device of a place while `work` is done and a moment after. */
export async function captured(
  lab: PacketLab,
  place: Place,
  device: string,
  filter: string,
  work: () => Promise<unknown>,
): Promise<Buffer[]> {
  await using dump = start(
    lab.at(place, "tcpdump", "-i", device, "-Q", "in", "-nn", "-xx", "-s0", "-l", "--immediate-mode", filter),
  );
  await dump.waitFor(/listening on/, 20_000);
  await work();
  await sleep(400);
  // Not its end alone: what it printed last may still be in the pipe.
  const read = new Promise((done) => dump.child.once("close", done));
  await dump.stop("SIGINT");
  await read;
  const frames: string[] = [];
  for (const line of dump.stdout.split("\n")) {
    const bytes = /^\s+0x([0-9a-f]+):\s+([0-9a-f ]+)$/.exec(line);
    if (bytes === null) continue;
    if (bytes[1] === "0000") frames.push("");
    frames[frames.length - 1] += bytes[2]?.replaceAll(" ", "") ?? "";
  }
  return frames.map((hex) => Buffer.from(hex, "hex"));
}
