/** The running balancer's figures as lines of text. */
import { checkText } from "../control/health/outcome.ts";
import type { CounterStats, ServerStats, Stats } from "../control/stats.ts";
import { bytes, clock, count, millis, NOT_VISIBLE, perSecond, UNCOUNTED } from "../dashboard/format.ts";
import type { Reading } from "./stats.ts";
import { type Column, cut, printable, table } from "./table.ts";

type Row = { failing: boolean; cells: string[] };

/**
 * Everything, as `convey stats` prints it. `before` is an earlier reading, for rates; `width` that of a terminal
 * that lines must fit.
 */
export function report(now: Reading, before?: Reading, width?: number): string[] {
  const { stats } = now;
  const rate = rates(now, before);
  const fit = (line: string): string => (width === undefined ? line : cut(line, width));
  const lines = summary(stats, rate).map(printable).map(fit);
  lines.push("", ...frontendTable(now, rate, width), "", ...serverTable(now, rate, width));
  lines.push(...queueLines(stats).map(printable).map(fit));
  const reasons = Object.entries(stats.reasons).map(([reason, n]) => `${reason} ${count(n)}`);
  if (reasons.length > 0) lines.push("", fit(`refused or ended early: ${reasons.join(", ")}`));
  const dropped = Object.entries(stats.packets?.dropped ?? {}).map(([reason, n]) => `${reason} ${count(n)}`);
  if (dropped.length > 0) lines.push("", fit(`packets dropped: ${dropped.join(", ")}`));
  return lines;
}

/** Backends at which somebody waits or has waited for a place. */
function queueLines({ backends }: Stats): string[] {
  const lines = Object.entries(backends).flatMap(([name, { queue }]) => {
    if (queue === undefined || queue.total + queue.refused === 0) return [];
    const { waiting, total, timed_out, refused } = queue;
    const closed = `${count(timed_out)} timed out, ${count(refused)} refused because it was full`;
    return [`queue of ${name}: ${count(waiting)} waiting, ${count(total)} so far, ${closed}`];
  });
  return lines.length === 0 ? [] : ["", ...lines];
}

/** The lines above the tables: what runs, and totals. */
export function summary(stats: Stats, rate: Rates): string[] {
  const servers = Object.values(stats.backends).flatMap(({ server_details }) =>
    Object.values(server_details),
  );
  const up = servers.filter((server) => server.up && !server.draining).length;
  const { engine, flows, packets, last_reload: reload } = stats;
  const about = [
    `Convey ${stats.version}`,
    stats.mode,
    ...(engine === undefined ? [] : [`engine ${engine}`]),
    `up ${clock(stats.uptime_seconds)}`,
    `configuration ${stats.config_version}`,
    ...(stats.draining ? ["draining"] : []),
  ];
  const whole = { ...stats, bytes_tx: stats.total_bytes_tx, bytes_rx: stats.total_bytes_rx };
  const totals = [
    `${count(up)} of ${count(servers.length)} servers up`,
    ...(stats.current_connections === undefined
      ? ["connections are not counted"]
      : [
          `${count(stats.current_connections)} open`,
          `${count(stats.total_connections ?? 0)} connections so far`,
        ]),
    `${bytes(stats.total_bytes_tx)} to servers`,
    `to clients ${received(stats, stats.total_bytes_rx)}`,
  ];
  return [
    about.join(", "),
    totals.join(", "),
    ...(rate === undefined ? [] : [`per second: ${rate(["stats"], whole, stats).join(", ")}`]),
    ...(flows === undefined || packets === undefined
      ? []
      : [
          `${count(flows.current)} of ${count(flows.capacity)} flows, ${count(packets.forwarded)} packets forwarded`,
        ]),
    ...(reload?.result === "rejected" ? [`last reload rejected: ${reload.message}`] : []),
  ];
}

/** Rates of what stands at a path of the statistics, in words; undefined without an earlier reading. */
export type Rates =
  | ((path: readonly string[], now: CounterStats, stats: Stats) => [string, string, string])
  | undefined;

export function rates(now: Reading, before: Reading | undefined): Rates {
  if (before === undefined) return undefined;
  const seconds = Math.max(0.001, (now.at - before.at) / 1000);
  const per = (to: number, from: number): number => Math.max(0, to - from) / seconds;
  return (path, to, stats) => {
    const from = counterAt(before.stats, path);
    const begun =
      to.total_connections === undefined
        ? UNCOUNTED
        : perSecond(per(to.total_connections, from?.total_connections ?? 0));
    const sent = `${bytes(per(to.bytes_tx, from?.bytes_tx ?? 0))}/s`;
    const answered =
      stats.return_path_visible === false ? NOT_VISIBLE : `${bytes(per(to.bytes_rx, from?.bytes_rx ?? 0))}/s`;
    return path[0] === "stats"
      ? [
          `${begun} connections`,
          `${sent.replace("/s", "")} to servers`,
          `to clients ${answered.replace("/s", "")}`,
        ]
      : [begun, sent, answered];
  };
}

function counterAt(
  stats: Stats,
  [kind, name = "", server = ""]: readonly string[],
): CounterStats | undefined {
  if (kind === "stats") return { ...stats, bytes_tx: stats.total_bytes_tx, bytes_rx: stats.total_bytes_rx };
  const own = <T>(of: Record<string, T> | undefined, key: string): T | undefined =>
    of !== undefined && Object.hasOwn(of, key) ? of[key] : undefined;
  if (kind === "frontend") return own(stats.frontends, name);
  return own(own(stats.backends, name)?.server_details, server);
}

const RATE_COLUMNS: readonly Column[] = [
  { head: "CONN/S", numeric: true, rank: 8 },
  { head: "TO SERVER/S", numeric: true, rank: 7 },
  { head: "TO CLIENTS/S", numeric: true, rank: 7 },
];

export function frontendTable({ stats }: Reading, rate: Rates, width?: number): string[] {
  const columns: Column[] = [
    { head: "FRONTEND", rank: 10 },
    { head: "LISTENS ON", rank: 6 },
    { head: "BACKEND", rank: 5 },
    { head: "OPEN", numeric: true, rank: 9 },
    ...(rate === undefined ? [] : RATE_COLUMNS),
    { head: "TOTAL", numeric: true, rank: 4 },
    { head: "TO SERVERS", numeric: true, rank: rate === undefined ? 7 : 1 },
    { head: "TO CLIENTS", numeric: true, rank: rate === undefined ? 7 : 1 },
  ];
  const rows = Object.entries(stats.frontends).map(([name, it]) => [
    name,
    it.address || "closed",
    (it.backends ?? [it.backend]).join(","),
    counted(it.current_connections),
    ...(rate?.(["frontend", name], it, stats) ?? []),
    counted(it.total_connections),
    bytes(it.bytes_tx),
    received(stats, it.bytes_rx),
  ]);
  return table(columns, rows, width);
}

/** Those that fail first where `failingFirst` says so. */
export function serverTable({ stats }: Reading, rate: Rates, width?: number, failingFirst = false): string[] {
  const columns: Column[] = [
    { head: "SERVER", rank: 10 },
    { head: "ADDRESS", rank: 3 },
    { head: "STATE", rank: 10 },
    { head: "WEIGHT", numeric: true, rank: 6 },
    { head: "OPEN", numeric: true, rank: 9 },
    ...(rate === undefined ? [] : RATE_COLUMNS),
    { head: "TOTAL", numeric: true, rank: 4 },
    { head: "TO SERVER", numeric: true, rank: rate === undefined ? 7 : 1 },
    { head: "TO CLIENTS", numeric: true, rank: rate === undefined ? 7 : 1 },
    { head: "LAST CHECK", rank: 5 },
  ];
  const rows = Object.entries(stats.backends).flatMap(([backend, { server_details }]) =>
    Object.entries(server_details).map(([name, it]): Row => {
      const state = stateOf(it);
      const cells = [
        `${backend}/${name}`,
        it.addr,
        state,
        weightText(it),
        counted(it.current_connections),
        ...(rate?.(["server", backend, name], it, stats) ?? []),
        counted(it.total_connections),
        bytes(it.bytes_tx),
        received(stats, it.bytes_rx),
        it.last_check === null
          ? "not yet"
          : `${checkText(it.last_check)}, ${millis(it.last_check.duration_ms)}`,
      ];
      return { failing: state !== "up", cells };
    }),
  );
  const ordered = failingFirst ? [...rows].sort((a, b) => Number(b.failing) - Number(a.failing)) : rows;
  return table(
    columns,
    ordered.map(({ cells }) => cells),
    width,
  );
}

/** "3", "0.75 of 3" in slow start, "3 backup". */
function weightText({ weight, effective_weight: now, backup }: ServerStats): string {
  const part = now > 0 && now < weight ? `${now} of ` : "";
  return `${part}${count(weight)}${backup ? " backup" : ""}`;
}

const stateOf = ({ up, draining, ejected_until }: ServerStats): string =>
  up ? (draining ? "draining" : "up") : ejected_until === undefined ? "DOWN" : "EJECTED";

const counted = (n: number | undefined): string => (n === undefined ? UNCOUNTED : count(n));

const received = (stats: Stats, n: number): string =>
  stats.return_path_visible === false ? NOT_VISIBLE : bytes(n);
