/**
 * Questions to a DNS server and what its answers come to. Answers are a stranger's bytes: whatever they hold, they
 * end in one of the shapes below, of bounded size. No I/O, no clock.
 */
import { decode, encode, type Packet, RECURSION_DESIRED, TRUNCATED_RESPONSE } from "dns-packet";
import { canonicalHost } from "../../config/address.ts";
import { hostNameOf } from "../../config/server-address.ts";

export type RecordType = "A" | "AAAA" | "SRV";

/** `name` is in lower case, without a dot at the end. */
export type Question = { id: number; name: string; type: RecordType };

/** Where an SRV record says that a service is. */
export type Target = { priority: number; weight: number; port: number; host: string };

/** What one answer comes to; times in milliseconds. */
export type Answer =
  /** `addresses` of A and AAAA, `targets` of SRV. `cut`: there were more than are taken. */
  | { kind: "found"; addresses: string[]; targets: Target[]; ttlMs: number; cut: boolean }
  /** The name is another one's alias, and the answer does not tell what that has. */
  | { kind: "alias"; name: string; ttlMs: number }
  /** DNS says so: the name does not exist, or it has no such record. */
  | { kind: "none"; cause: string; ttlMs: number }
  /** It does not fit a datagram. */
  | { kind: "truncated" }
  /** Nothing was learnt about the name. */
  | { kind: "failed"; cause: string };

/** Addresses, and targets, that are taken of one answer. */
export const MOST_RECORDS = 256;
/** Aliases that are followed within one answer. */
const MOST_ALIASES = 16;
/** How long an answer without a record counts that does not say itself. */
const NO_TTL_MS = 5000;
/** TTLs beyond are nonsense (RFC 2181, section 8). */
const LONGEST_TTL_S = 0x7fff_ffff;

/** The question as a datagram. */
export function encodeQuestion({ id, name, type }: Question): Buffer {
  return encode({ type: "query", id, flags: RECURSION_DESIRED, questions: [{ type, name, class: "IN" }] });
}

/** What `bytes` answer; undefined when they are no answer to this question. Never throws. */
export function readAnswer(bytes: Buffer, question: Question): Answer | undefined {
  if (bytes.length < 12 || bytes.readUInt16BE(0) !== question.id) return undefined;
  let packet: Packet;
  try {
    packet = decode(bytes);
    return judge(packet, question);
  } catch {
    return { kind: "failed", cause: "an answer that cannot be read" };
  }
}

type Known = Packet & { opcode?: string; rcode?: string };

function judge(packet: Known, question: Question): Answer | undefined {
  const asked = packet.questions ?? [];
  const [same] = asked;
  const isAnswer =
    packet.type === "response" &&
    packet.opcode === "QUERY" &&
    asked.length === 1 &&
    same?.type === question.type &&
    same.class === "IN" &&
    plain(same.name) === question.name;
  if (!isAnswer) return refusedWithoutQuestion(packet, asked.length);
  if (packet.rcode === "NXDOMAIN")
    return { kind: "none", cause: "no such name (NXDOMAIN)", ttlMs: noneTtl(packet) };
  if (packet.rcode !== "NOERROR") return { kind: "failed", cause: `the DNS server answers ${packet.rcode}` };
  if (((packet.flags ?? 0) & TRUNCATED_RESPONSE) !== 0) return { kind: "truncated" };
  return collect(packet, question);
}

/** Servers that do not understand a question answer without it. */
function refusedWithoutQuestion({ type, rcode }: Known, asked: number): Answer | undefined {
  const refused = type === "response" && asked === 0 && rcode !== "NOERROR" && rcode !== "NXDOMAIN";
  return refused ? { kind: "failed", cause: `the DNS server answers ${rcode}` } : undefined;
}

function collect(packet: Packet, { name, type }: Question): Answer {
  const records = (packet.answers ?? []).filter((record) => "class" in record && record.class === "IN");
  const aliases = new Map<string, { to: string; ttl: number }>();
  for (const record of records) {
    if (record.type !== "CNAME" || aliases.has(plain(record.name))) continue;
    aliases.set(plain(record.name), { to: plain(record.data), ttl: record.ttl ?? 0 });
  }
  let owner = name;
  let ttl = LONGEST_TTL_S;
  for (let followed = 0; aliases.has(owner); followed++) {
    if (followed === MOST_ALIASES) return { kind: "failed", cause: "aliases that lead nowhere" };
    const alias = aliases.get(owner) as { to: string; ttl: number };
    ttl = Math.min(ttl, alias.ttl);
    owner = alias.to;
  }
  const addresses = new Set<string>();
  const targets = new Map<string, Target>();
  let cut = false;
  for (const record of records) {
    if (record.type !== type || plain(record.name) !== owner) continue;
    ttl = Math.min(ttl, record.ttl ?? 0);
    if (addresses.size + targets.size === MOST_RECORDS) {
      cut = true;
      break;
    }
    if (record.type === "A" || record.type === "AAAA") addresses.add(canonicalHost(record.data).host);
    else if (record.type === "SRV") {
      const { priority = 0, weight = 0, port, target } = record.data;
      const host = hostNameOf(target);
      // A target of "." says that there is no such service (RFC 2782).
      if (host !== undefined && port !== 0)
        targets.set(`${priority} ${port} ${host}`, { priority, weight, port, host });
    }
  }
  const ttlMs = ttl * 1000;
  if (addresses.size + targets.size > 0) {
    return { kind: "found", addresses: [...addresses], targets: [...targets.values()], ttlMs, cut };
  }
  if (owner === name) return { kind: "none", cause: `no ${type} record`, ttlMs: noneTtl(packet) };
  const to = hostNameOf(owner);
  return to === undefined
    ? { kind: "failed", cause: "an alias of something that is no name" }
    : { kind: "alias", name: to, ttlMs };
}

/** How long "there is none" counts (RFC 2308, section 5). */
function noneTtl({ authorities = [] }: Packet): number {
  for (const record of authorities) {
    if (record.type !== "SOA") continue;
    return Math.min(record.ttl ?? 0, record.data.minimum ?? 0, LONGEST_TTL_S) * 1000;
  }
  return NO_TTL_MS;
}

const plain = (name: string): string => name.toLowerCase().replace(/\.$/, "");
