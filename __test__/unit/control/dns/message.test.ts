/** Answers of DNS servers, honest and hostile. */
import { encode, type Packet, type Answer as Record, TRUNCATED_RESPONSE } from "dns-packet";
import fc from "fast-check";
import { expect, test } from "vitest";
import {
  encodeQuestion,
  MOST_RECORDS,
  type Question,
  type RecordType,
  readAnswer,
} from "../../../../ts/control/dns/message.ts";

const question: Question = { id: 4711, name: "app.test", type: "A" };

const respond = (answers: Record[], more: Partial<Packet> = {}, asked: Question = question): Buffer =>
  encode({
    type: "response",
    id: asked.id,
    questions: [{ name: asked.name, type: asked.type, class: "IN" }],
    answers,
    ...more,
  } as Packet);

const a = (name: string, data: string, ttl = 60): Record => ({ type: "A", name, data, ttl });
const alias = (name: string, data: string, ttl = 60): Record => ({ type: "CNAME", name, data, ttl });
const found = (addresses: string[], ttlMs = 60_000) => ({
  kind: "found",
  addresses,
  targets: [],
  ttlMs,
  cut: false,
});

test("addresses come with the least of their TTLs, whatever the case of the name", () => {
  const bytes = respond([
    a("App.Test", "10.0.0.1", 30),
    a("app.test", "10.0.0.2", 20),
    a("other.test", "10.9.9.9", 1),
  ]);
  expect(readAnswer(bytes, question)).toEqual(found(["10.0.0.1", "10.0.0.2"], 20_000));
});

test("aliases are followed within an answer, in any order, and their TTLs count", () => {
  const bytes = respond([a("c.test", "10.0.0.1"), alias("b.test", "c.test", 7), alias("app.test", "b.test")]);
  expect(readAnswer(bytes, question)).toEqual(found(["10.0.0.1"], 7000));
});

test("an alias whose end is not told is asked for, one that leads in a circle is not", () => {
  expect(readAnswer(respond([alias("app.test", "far.test", 9)]), question)).toEqual({
    kind: "alias",
    name: "far.test",
    ttlMs: 9000,
  });
  const circle = respond([alias("app.test", "b.test"), alias("b.test", "app.test")]);
  expect(readAnswer(circle, question)).toEqual({ kind: "failed", cause: "aliases that lead nowhere" });
});

test("that there is nothing is told apart from that nobody knows", () => {
  const soa = {
    type: "SOA",
    name: "test",
    ttl: 300,
    data: { minimum: 12, mname: "a.test", rname: "b.test" },
  };
  const authorities = [soa] as never;
  expect(readAnswer(respond([], { authorities }), question)).toEqual({
    kind: "none",
    cause: "no A record",
    ttlMs: 12_000,
  });
  expect(readAnswer(respond([], { flags: 3 }), question)).toMatchObject({
    kind: "none",
    cause: "no such name (NXDOMAIN)",
  });
  for (const [rcode, word] of [
    [1, "FORMERR"],
    [2, "SERVFAIL"],
    [5, "REFUSED"],
  ] as const) {
    const cause = `the DNS server answers ${word}`;
    expect(readAnswer(respond([], { flags: rcode }), question)).toEqual({ kind: "failed", cause });
  }
});

test("an answer to another question is none: id, name, type, class and direction count", () => {
  const good = [a("app.test", "10.0.0.1")];
  const strays = [
    respond(good, { id: 1 }),
    respond(good, {}, { ...question, name: "other.test" }),
    respond(good, {}, { ...question, type: "AAAA" }),
    respond(good, { questions: [{ name: "app.test", type: "A", class: "CH" }] }),
    respond(good, { questions: [] }),
    encodeQuestion(question),
  ];
  for (const bytes of strays) expect(readAnswer(bytes, question)).toBeUndefined();
});

test("an answer that was cut is asked for by another way", () => {
  expect(readAnswer(respond([], { flags: TRUNCATED_RESPONSE }), question)).toEqual({ kind: "truncated" });
});

test("SRV records tell where a service is; a target of . and port 0 are none", () => {
  const asked: Question = { id: 5, name: "_http._tcp.test", type: "SRV" };
  const record = (target: string, port: number): Record => ({
    type: "SRV",
    name: asked.name,
    ttl: 5,
    data: { priority: 1, weight: 2, port, target },
  });
  expect(
    readAnswer(respond([record("S1.Test", 80), record(".", 80), record("s2.test", 0)], {}, asked), asked),
  ).toEqual({
    kind: "found",
    addresses: [],
    targets: [{ priority: 1, weight: 2, port: 80, host: "s1.test" }],
    ttlMs: 5000,
    cut: false,
  });
  expect(readAnswer(respond([record(".", 0)], {}, asked), asked)).toMatchObject({ kind: "none" });
});

test("of a flood of addresses so many are taken, and it is said", () => {
  const flood = Array.from({ length: 1000 }, (_, i) => a("app.test", `10.0.${i >> 8}.${i & 255}`));
  const answer = readAnswer(respond(flood), question);
  expect(answer).toMatchObject({ kind: "found", cut: true });
  expect(answer?.kind === "found" && answer.addresses.length).toBe(MOST_RECORDS);
});

const types = fc.constantFrom<RecordType>("A", "AAAA", "SRV");

function isBounded(bytes: Buffer, asked: Question): void {
  const answer = readAnswer(bytes, asked);
  if (answer?.kind !== "found") return;
  expect(answer.addresses.length + answer.targets.length).toBeLessThanOrEqual(MOST_RECORDS);
  expect(answer.ttlMs).toBeGreaterThanOrEqual(0);
}

test("whatever bytes come, reading them ends, does not throw and gives a bounded answer", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 600 }), types, (noise, type) => {
      const bytes = Buffer.concat([Buffer.from([0x12, 0x67]), noise]);
      isBounded(bytes, { id: 0x1267, name: "app.test", type });
    }),
    { numRuns: 3000 },
  );
});

test("an answer with any bytes of it changed, cut or repeated ends as well", () => {
  const whole = respond([alias("app.test", "b.test"), a("b.test", "10.0.0.1"), a("b.test", "10.0.0.2")]);
  const change = fc.record({ at: fc.nat(whole.length - 1), value: fc.nat(255) });
  fc.assert(
    fc.property(
      fc.array(change, { maxLength: 8 }),
      fc.nat(whole.length),
      fc.nat(3),
      (changes, length, times) => {
        const bytes = Buffer.from(whole);
        for (const { at, value } of changes) bytes[at] = value;
        const cut = bytes.subarray(0, length);
        isBounded(Buffer.concat([cut, ...Array.from({ length: times }, () => cut)]), question);
      },
    ),
    { numRuns: 3000 },
  );
});

test("pointers of compressed names that lead in circles end", () => {
  for (const pointer of [0xc00c, 0xc01e, 0xc000, 0xffff]) {
    const bytes = Buffer.concat([respond([]), Buffer.alloc(64)]);
    bytes.writeUInt16BE(1, 6);
    for (let at = respond([]).length; at < bytes.length - 1; at += 2) bytes.writeUInt16BE(pointer, at);
    isBounded(bytes, question);
  }
});
