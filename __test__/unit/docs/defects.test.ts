/**
 * What Convey 0.3.5 did wrong, and the tests that keep it from coming back. A piece of a title is enough: titles
 * may be put better, and whoever drops the piece, or the test, is told here.
 */
import { join } from "node:path";
import { expect, test } from "vitest";
import { titlesIn } from "../../support/titles.ts";

const ROOT = join(import.meta.dirname, "../../..");

interface Defect {
  was: string;
  /** `file: piece of a title`. */
  tests: string[];
}

const ENGINE = "crates/convey-engine/tests/defects.rs";

const DEFECTS: readonly Defect[] = [
  {
    was: "a NAT port in use was given to another client, who got the first one's answers",
    tests: [`${ENGINE}: port_in_use`, "__test__/net/suite/limits.ts: no client ever gets another's bytes"],
  },
  {
    was: "two frontends on one address shared their ports, and both relayed every answer",
    tests: [`${ENGINE}: two_frontends_on_one_address`, "__test__/net/suite/modes.ts: UDP over"],
  },
  {
    was: "answers were not checked to come from the chosen server",
    tests: [`${ENGINE}: an_answer_from_another_host`, "__test__/net/suite/frames.ts: blind resets"],
  },
  {
    was: "a busy old flow was evicted before idle ones",
    tests: [`${ENGINE}: busy_old_flow`, "__test__/net/suite/limits.ts: full flow table"],
  },
  {
    was: "a bad address in a reload ended the process",
    tests: ["__test__/net/suite/modes.ts: bad address in a changed file"],
  },
  {
    was: "its firewall rule dropped the answers to its own health checks",
    tests: [`${ENGINE}: health_checks_are_left`, "__test__/net/suite/modes.ts: health checks were answered"],
  },
  {
    was: "the end of a stream was not passed on",
    tests: ["__test__/e2e/proxy/transfer.test.ts: closes first"],
  },
  {
    was: "one failed accept ended the listener for good",
    tests: ["__test__/fault/proxy-exhaustion.test.ts: accepting backs off"],
  },
  {
    was: "removing a server moved other servers' flows",
    tests: ["__test__/net/suite/modes.ts: across reload, add and removal"],
  },
  {
    was: "a packet with IP options ended a worker",
    tests: [`${ENGINE}: ip_options`, "__test__/net/suite/frames.ts: IP options"],
  },
  {
    was: "coalesced frames were cut or not sent",
    tests: [`${ENGINE}: coalesced_frame`, "__test__/net/suite/modes.ts: 50 MiB each way over"],
  },
  {
    was: "the padding of short frames became payload",
    tests: [`${ENGINE}: padding`, "__test__/net/suite/frames.ts: padding"],
  },
  {
    was: "UDP and ICMP were taken for TCP",
    tests: [`${ENGINE}: protocol_other_than`, "__test__/net/suite/frames.ts: neither TCP nor UDP"],
  },
  {
    was: "a corrupted packet left with a valid checksum",
    tests: [`${ENGINE}: corrupted_packet`, "__test__/net/suite/frames.ts: corrupted checksum"],
  },
  {
    was: "packets overtook their flow's entry, and each other",
    tests: [`${ENGINE}: before_the_syn_leaves`, "__test__/net/suite/modes.ts: arrive in order"],
  },
  {
    was: "TTL was set, not decremented, so that loops never ended",
    tests: [`${ENGINE}: ttl_goes_down`, "__test__/net/suite/frames.ts: TTL"],
  },
  {
    was: "ICMP errors were not translated",
    tests: [`${ENGINE}: fragmentation_needed`, "__test__/net/suite/modes.ts: path MTU"],
  },
  {
    was: "its ports overlapped the host's own",
    tests: ["__test__/net/suite/restarts.ts: ports are reserved"],
  },
  {
    was: "one interface, IPv4 and TCP alone",
    tests: [`${ENGINE}: ipv6_udp_and_two_interfaces`, "__test__/net/suite/modes.ts: UDP over"],
  },
  {
    was: "a SYN flood filled the table, and capacity 0 ended the process",
    tests: [`${ENGINE}: syn_flood`, "__test__/net/suite/limits.ts: SYN flood"],
  },
  {
    was: "a server that failed its checks or was removed lost its open connections",
    tests: [
      `${ENGINE}: a_flow_goes_on_when`,
      "__test__/net/suite/modes.ts: flows stay with their server",
      "__test__/e2e/proxy/servers.test.ts: keeps its open connections",
    ],
  },
  {
    was: "files replaced by rename were lost, half-written ones taken",
    tests: [
      "__test__/e2e/control/file-reload.test.ts: renamed over",
      "__test__/fault/proxy-process.test.ts: ..data",
    ],
  },
  {
    was: "no timeouts, no retry, no TCP_NODELAY, no limits",
    tests: [
      "__test__/e2e/proxy/servers.test.ts: further servers are tried",
      "__test__/e2e/proxy/transfer.test.ts: small pieces",
      "__test__/e2e/proxy/limits.test.ts: idle timeout",
    ],
  },
  {
    was: "weighted round robin was random",
    tests: ["__test__/e2e/proxy/servers.test.ts: 15 and 15", "__test__/net/suite/modes.ts: spread by weight"],
  },
  {
    was: "counters drifted",
    tests: [
      `${ENGINE}: counters_end_at_zero`,
      "__test__/net/suite/modes.ts: no gauge above zero",
      "__test__/e2e/proxy/transfer.test.ts: every gauge returns to 0",
    ],
  },
  {
    was: "health checks ran one after another",
    tests: ["__test__/unit/control/health/monitor.test.ts: every server still has its turn"],
  },
];

test.each(DEFECTS)("tested: $was", ({ tests }) => {
  expect(tests.length).toBeGreaterThan(0);
  for (const entry of tests) {
    const [file = "", piece = ""] = entry.split(/: (.*)/s);
    expect(
      titlesIn(join(ROOT, file)).filter((title) => title.includes(piece)),
      `no test of ${file} has "${piece}" in its title`,
    ).not.toEqual([]);
  }
});

test("all 26 known defects are in the table", () => {
  expect(DEFECTS).toHaveLength(26);
});
