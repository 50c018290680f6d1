import { describe, expect, test } from "vitest";
import type { Figure, Visit } from "../../bench/figures.ts";
import type { HalfLoad } from "../../bench/half-load.ts";
import { type Options, parseOptions } from "../../bench/options.ts";
import { parsePacketOptions } from "../../bench/packet/options.ts";
import { type PacketRound, packetMarkdown } from "../../bench/packet/report.ts";
import type { PacketFigure } from "../../bench/packet/visit.ts";
import { compare, markdown, QUICK, type Series } from "../../bench/report.ts";

const HALF: HalfLoad = { requestsPerS: 25_000, best: "nginx", measured: { convey: 40_000, nginx: 50_000 } };

function visit(peer: string, figure: Figure, value: number, missing: string[] = []): Visit {
  return { peer, figures: { [figure]: value }, missing, failures: 0 };
}

/** `rounds` rounds there and back: convey 10 ± 1 %, the other `other`. */
function series(figure: Figure, other: number, rounds: number, half: HalfLoad = HALF): Series {
  const round = [
    visit("convey", figure, 10),
    visit("nginx", figure, other),
    visit("nginx", figure, other * 1.02),
    visit("convey", figure, 10.2),
  ];
  return { profile: "one", offloads: true, half, rounds: Array.from({ length: rounds }, () => round) };
}

function options(...args: string[]): Options {
  return parseOptions(args) as Options;
}

describe("the table of the proxy bench", () => {
  const names = ["convey", "nginx"];

  test("calls a difference decided from twice the control's distance on", () => {
    const figure = "keepalive_cpu_us_per_request";
    expect(compare(series(figure, 20, 5), names)[0]?.decision).toBe("decided");
    expect(compare(series(figure, 10.3, 5), names)[0]?.decision).toBe("within noise");
  });

  test("decides nothing from fewer than five rounds", () => {
    expect(compare(series("bulk_cpu_s_per_gb", 20, 4), names)[0]?.decision).toBe("too few rounds");
  });

  test("tells the rate of half load where its latency stands", () => {
    const text = markdown([series("half_load_p99_us", 20, 5)], names, options());
    expect(text).toContain("p99 us at 25000 requests/s, half of the best peer's rate");
  });

  test("says why half load is missing", () => {
    const half = { reason: "no peer's rate could be measured" };
    const text = markdown([series("bulk_cpu_s_per_gb", 20, 5, half)], names, options());
    expect(text).toContain("half load is missing: no peer's rate could be measured");
    expect(text).not.toContain("p99");
  });

  test("says why a figure is missing", () => {
    const round = [
      visit("convey", "bulk_gbit_per_s", 1),
      visit("nginx", "connect_cores_used", 1, ["bulk: x"]),
    ];
    const text = markdown(
      [{ profile: "one", offloads: true, half: HALF, rounds: [round] }],
      names,
      options(),
    );
    expect(text).toMatch(/\| bulk gbit\/s \| 1\.00 \| missing \|/);
    expect(text).toContain("- missing: nginx, bulk: x (1 visits)");
  });

  test("says of quick figures that they are not to be quoted", () => {
    expect(markdown([series("bulk_cpu_s_per_gb", 20, 2)], names, options("--quick"))).toContain(QUICK);
    expect(markdown([series("bulk_cpu_s_per_gb", 20, 5)], names, options())).not.toContain(QUICK);
  });
});

describe("the table of the packet bench", () => {
  const round: PacketRound = ["tc", "tc-dsr", "one-call", "nft-dnat", "routing"].map((peer) => ({
    peer,
    figures: { small_kpps: 100 } satisfies Partial<Record<PacketFigure, number>>,
    missing: [],
    atCeiling: peer === "routing" ? ["small"] : [],
    failures: 0,
  }));

  test("has no dash without a reason", () => {
    const parsed = parsePacketOptions(["--mode", "packet", "--peers", round.map(({ peer }) => peer).join()]);
    const withBulk = round.map((v) => (v.peer === "tc" ? { ...v, figures: { bulk_gbit_per_s: 1 } } : v));
    const text = packetMarkdown([withBulk], parsed as NonNullable<typeof parsed>, []);
    expect(text).toMatch(/\| bulk gbit\/s \| 1\.00 \| n\/a \| n\/a \| missing \| missing \|/);
    expect(text).toContain("n/a: one-call has no bulk: it forwards UDP alone");
    expect(text).not.toContain("| – |");
  });

  test("says why XDP has no figures with offloads on, and has those without", () => {
    const parsed = parsePacketOptions(["--mode", "packet", "--peers", "tc,xdp"]);
    const figures = { bulk_gbit_per_s: 1, bulk_offloads_off_gbit_per_s: 2 };
    const seen: PacketRound = [
      { peer: "tc", figures, missing: [], atCeiling: [], failures: 0 },
      { peer: "xdp", figures: {}, missing: [], atCeiling: [], failures: 0 },
    ];
    const text = packetMarkdown([seen], parsed as NonNullable<typeof parsed>, []);
    expect(text).toMatch(/\| bulk gbit\/s \| 1\.00 \| n\/a \|/);
    expect(text).toMatch(/\| bulk offloads off gbit\/s \| 2\.00 \| missing \|/);
    expect(text).toContain("n/a with offloads on: xdp: frames reach XDP without");
  });

  test("tells targets first, and each engine's rates beside nft DNAT's", () => {
    const parsed = parsePacketOptions(["--mode", "packet", "--peers", "tc,tc-dsr,nft-dnat"]);
    const seen = (["tc", "tc-dsr", "nft-dnat"] as const).map((peer, i) => ({
      peer,
      figures: { connect_offloads_off_connections_per_s: 3 - i, scattered_kpps: 3 - i },
      missing: [],
      atCeiling: [],
      failures: 0,
    }));
    const text = packetMarkdown([[...seen, ...seen]], parsed as NonNullable<typeof parsed>, []);
    const target = text.indexOf("| tc ÷ nft-dnat | scattered kpps | 3.000");
    const beside = text.indexOf("| tc-dsr ÷ nft-dnat | connect offloads off connections/s | 2.000");
    expect(text.slice(target).split("\n")[0]).toContain("≥ 1.30: too few rounds");
    expect(target).toBeGreaterThan(0);
    expect(beside).toBeGreaterThan(target);
  });

  test("says when the generator was the limit", () => {
    const parsed = parsePacketOptions(["--mode", "packet", "--quick"]);
    const text = packetMarkdown([round], parsed as NonNullable<typeof parsed>, []);
    expect(text).toContain("generator was the limit: routing, small");
    expect(text).toContain(QUICK);
  });
});
