/** Servers that come and go while a packet mode forwards, by a program on the balancer's host. */
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { ChangeResult, Plan } from "../../ts/index.ts";
import { start, until } from "../support/processes.ts";
import { lacking } from "../support/requirements.ts";
import { XDP_TOOLS } from "./lab/other-end.ts";
import { SERVERS, Segment, VIPS } from "./lab/segment.ts";

const missing = lacking({ root: true, tools: ["ip", "ss", "sysctl", "curl", ...XDP_TOOLS] });
const [VIP] = VIPS;
const PROGRAM = join(import.meta.dirname, "lab/runtime-program.ts");
const TYPESCRIPT = join(import.meta.dirname, "../support/typescript.mjs");

describe.skipIf(missing !== undefined)("servers at run time", () => {
  async function program(segment: Segment, method: string) {
    const command = [process.execPath, "--import", TYPESCRIPT, PROGRAM, VIP, method, ...SERVERS];
    const running = start(segment.balancer(...command), { stdin: true });
    let told = 0;
    /** What the program prints next; it goes on when it is told to. */
    const step = async <T>(): Promise<T> => {
      if (told > 0) running.child.stdin?.write("\n");
      const wanted = told++;
      const line = await until(
        async () =>
          running
            .output()
            .split("\n")
            .filter((text) => /^["{]/.test(text))[wanted],
        `line ${wanted + 1} of the program`,
        30_000,
        () => running.output(),
      );
      return JSON.parse(line) as T;
    };
    return {
      step,
      [Symbol.asyncDispose]: async () => {
        await running.stop("SIGTERM");
      },
    };
  }

  /** Who answers clients on 60 ports from `first` on; the client keeps a port for a minute after it was used. */
  async function answering(segment: Segment, first: number): Promise<Set<string>> {
    const seen = new Set<string>();
    for (let port = first; port < first + 60; port++) {
      seen.add((await segment.ask(VIP, port)).split(" ")[0] ?? "");
    }
    return seen;
  }

  test("in passthrough one that is added gets its share of the table, as the plan said, and one removed none", async () => {
    await using segment = await Segment.create();
    await using it = await program(segment, "passthrough");
    await it.step();
    const { plan, added } = await it.step<{ plan: Plan; added: ChangeResult }>();
    const last = SERVERS[3];
    expect(plan.changes).toEqual([{ kind: "added", what: "server", name: `app/${last}` }]);
    expect(plan.slots).toMatchObject([{ backend: "app", slots: 65_537 }]);
    const share = (plan.slots[0]?.moved ?? 0) / 65_537;
    expect(share).toBeGreaterThan(0.25);
    expect(share).toBeLessThan(0.35);
    expect(added).toMatchObject({ result: "applied", changes: plan.changes });
    expect(await answering(segment, 20_000)).toEqual(new Set(SERVERS));
    const { other, without, removed } = await it.step<{
      other: object;
      without: Plan;
      removed: ChangeResult;
    }>();
    const [gone, ...others] = without.servers;
    expect(gone).toMatchObject({ name: `app/${SERVERS[2]}`, change: "removed" });
    expect(gone?.current_flows, "60 clients asked four servers").toBeGreaterThan(4);
    expect(gone?.current_flows).toBeLessThan(30);
    expect([others, without.partial]).toEqual([[], null]);
    expect(other).toEqual({ code: "CONFIG_INVALID", field: "backends.app.servers.six.addr" });
    expect(removed.changes).toMatchObject([{ kind: "removed", name: `app/${SERVERS[2]}` }]);
    const left = await answering(segment, 21_000);
    expect([...left].sort()).toEqual([SERVERS[0], SERVERS[1], SERVERS[3]]);
    expect(await it.step()).toMatchObject({ left: { warnings: [{ path: "backends.app" }] } });
  });

  test("with minimal tracking in dsr one can be added, but none with a limit that nobody could count", async () => {
    await using segment = await Segment.create();
    await using it = await program(segment, "rewrite");
    await it.step();
    const { plan, added } = await it.step<{ plan: Plan; added: ChangeResult }>();
    expect(plan.ok).toBe(true);
    expect(plan.slots).toHaveLength(1);
    expect(plan.partial, "nothing goes, so nothing is counted").toBeNull();
    expect(added).toMatchObject({ result: "applied", warnings: [] });
    const { limited, removed } = await it.step<{ limited: object; removed: ChangeResult }>();
    expect(limited).toEqual({
      code: "CONFIG_INVALID",
      field: "backends.app.servers.limited.max_connections",
    });
    expect(removed.result).toBe("applied");
  });
});
