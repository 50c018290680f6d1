import { describe, expect, test } from "vitest";
import { sentences } from "../../../ts/cli/explain.ts";
import { parseFlow, toExplanation } from "../../../ts/control/explain.ts";
import { wording } from "../../../ts/control/wording.ts";
import type { NativeExplanation } from "../../../ts/native/index.ts";

describe("a flow as people write it", () => {
  test("addresses come out canonical", () => {
    expect(parseFlow("udp", "[2001:DB8:0::7]:53", "[fd00::1]:53")).toEqual({
      ok: true,
      value: { protocol: "udp", source: "[2001:db8::7]:53", destination: "[fd00::1]:53" },
    });
  });

  test.each([
    ["sctp", "192.0.2.1:1", "192.0.2.2:2", 'the protocol "sctp" is neither tcp nor udp'],
    ["tcp", "192.0.2.1", "192.0.2.2:2", 'the source "192.0.2.1" has no port'],
    ["tcp", ":80", "192.0.2.2:2", 'the source ":80" has no address before the port'],
    ["tcp", "192.0.2.1:1", "www:80", 'the destination "www:80" has a name'],
    ["tcp", "192.0.2.1:1", "fd00::1:80", "is IPv6 without brackets"],
    ["tcp", "192.0.2.1:1", "[fd00::1]:80", "the source is IPv4 and the destination is IPv6"],
  ])("%s %s %s is refused by what is wrong with it", (protocol, source, destination, message) => {
    const parsed = parseFlow(protocol, source, destination);
    expect(parsed.ok).toBe(false);
    expect(parsed).toHaveProperty("message", expect.stringContaining(message));
  });
});

describe("an explanation", () => {
  const flow = { protocol: "tcp", source: "192.0.2.7:4000", destination: "10.0.0.1:80" } as const;
  const nothing = {
    frontend: "",
    flow: "",
    direction: "",
    method: "",
    rewrittenSource: "",
    rewrittenDestination: "",
    verdict: "pass",
    reason: "not_vip",
    steps: [{ kind: "not_ours", destination: "10.0.0.1:80" }],
  } satisfies NativeExplanation;

  test("has null for what does not apply", () => {
    expect(toExplanation(flow, nothing)).toEqual({
      ...flow,
      frontend: null,
      flow: null,
      direction: null,
      maglev_slot: null,
      server: null,
      method: null,
      rewritten: null,
      next_hop: null,
      verdict: "pass not_vip",
      steps: [
        {
          kind: "not_ours",
          destination: "10.0.0.1:80",
          text: "no frontend listens on 10.0.0.1:80 and no flow answers to it",
        },
      ],
    });
  });

  test("Maglev slot 0 is a slot", () => {
    expect(toExplanation(flow, { ...nothing, maglevSlot: 0 }).maglev_slot).toBe(0);
  });

  test("reads as numbered steps with the verdict last", () => {
    expect(sentences(toExplanation(flow, nothing))).toBe(
      [
        "tcp 192.0.2.7:4000 -> 10.0.0.1:80",
        "  1. no frontend listens on 10.0.0.1:80 and no flow answers to it",
        "verdict: pass not_vip",
        "",
      ].join("\n"),
    );
  });
});

describe("what was found out", () => {
  test.each([
    ["10.1.0.1:0", "rewritten to 10.1.0.1 (a free port) -> 10.2.0.1:80"],
    ["[fd00::1]:0", "rewritten to fd00::1 (a free port) -> 10.2.0.1:80"],
    ["10.1.0.1:40000", "rewritten to 10.1.0.1:40000 -> 10.2.0.1:80"],
  ])("a source of %s is told as what is known of it", (source, sentence) => {
    expect(wording({ kind: "rewritten", source, destination: "10.2.0.1:80" })).toBe(sentence);
  });

  test("a server's share is told in percent", () => {
    const share = { kind: "share", name: "s1", addr: "10.2.0.1:80", weight: 1, total: 3 } as const;
    const told = 'server "s1", 10.2.0.1:80, weight 1: 33.3 % of new connections';
    expect(wording({ ...share, backup: false })).toBe(told);
    expect(wording({ ...share, backup: true })).toBe(`backup ${told}`);
  });

  test("interfaces stand in sentences by their names", () => {
    expect(wording({ kind: "sent", interface: "eth0", mtu: 1500 })).toBe("sent on interface eth0 (MTU 1500)");
  });
});
