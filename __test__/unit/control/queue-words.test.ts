/** Who waits for a place, in the words of the dashboard and of `convey stats`. */
import { expect, test } from "vitest";
import { report } from "../../../ts/cli/stats-report.ts";
import type { Stats } from "../../../ts/control/stats.ts";
import { queue } from "../../../ts/dashboard/client/words.ts";

const row = { name: "pool", balance: "round_robin", tx: 0, rx: 0, rates: { tx: 0, rx: 0 }, servers: [] };

test("the dashboard tells of a queue once somebody has waited or was refused", () => {
  expect(queue(row)).toEqual([]);
  expect(queue({ ...row, waiting: 0, waited: 0, waited_in_vain: 0 })).toEqual([]);
  expect(queue({ ...row, waiting: 3, waited: 1200, waited_in_vain: 0 })).toEqual(["3 waiting for a place"]);
  expect(queue({ ...row, waiting: 0, waited: 0, waited_in_vain: 2 })).toEqual([
    "0 waiting for a place, 2 closed instead",
  ]);
});

test("`convey stats` has a line for each queue in which somebody has waited", () => {
  const counted = { bytes_tx: 0, bytes_rx: 0, balance: "round_robin", servers: {}, server_details: {} };
  const stats: Stats = {
    total_bytes_tx: 0,
    total_bytes_rx: 0,
    backends: {
      quiet: { ...counted, queue: { waiting: 0, total: 0, timed_out: 0, refused: 0 } },
      busy: { ...counted, queue: { waiting: 2, total: 9, timed_out: 1, refused: 4 } },
    },
    frontends: {},
    version: "0",
    uptime_seconds: 0,
    mode: "proxy",
    config_version: 1,
    draining: false,
    lost_log_lines: 0,
    reasons: {},
    last_reload: null,
  };
  const lines = report({ stats, at: 0 } as never);
  expect(lines.filter((line) => line.startsWith("queue of"))).toEqual([
    "queue of busy: 2 waiting, 9 so far, 1 timed out, 4 refused because it was full",
  ]);
});
