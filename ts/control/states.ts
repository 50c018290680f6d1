/**
 * What the control plane knows of each server beyond the configuration: health, drain, weight set at run
 * time. Records are carried over from one configuration to the next by backend and server name.
 *
 * What survives a reload: health, drain and weight while the address stays; a weight set at run time
 * additionally gives way when the file's own weight changes, since the file then speaks last.
 */
import { serverKey } from "../config/lower.ts";
import type { Config } from "../config/schema.ts";
import { isResolved, parseServerAddress } from "../config/server-address.ts";
import type { NativeServerUpdate } from "../native/index.ts";
import type { CheckTarget } from "./health/monitor.ts";
import { vipCheck } from "./health/vip-check.ts";

/** One server of one backend. */
export type ServerRecord = {
  readonly key: string;
  readonly backend: string;
  readonly server: string;
  readonly addr: string;
  readonly configuredWeight: number;
  /** Set at run time, until the configured weight changes. */
  weightOverride: number | undefined;
  draining: boolean;
  up: boolean;
};

/** Records by `serverKey()`. */
export type ServerRecords = ReadonlyMap<string, ServerRecord>;

/**
 * Records for `config`; `previous` stays as it was. A server or weight that `previous` does not have any more comes
 * back as it was in `earlier`.
 */
export function carryOver(
  config: Config,
  previous: ServerRecords,
  earlier: ServerRecords = new Map(),
): ServerRecords {
  const records = new Map<string, ServerRecord>();
  for (const [backend, { servers }] of Object.entries(config.backends)) {
    for (const [server, { addr, weight }] of Object.entries(servers)) {
      const key = serverKey(backend, server);
      const [old, older] = [previous, earlier].map((those) => {
        const record = those.get(key);
        return record?.addr === addr ? record : undefined;
      });
      const weighed = [old, older].find((record) => record?.configuredWeight === weight);
      const same = old ?? older;
      records.set(key, {
        key,
        backend,
        server,
        addr,
        configuredWeight: weight,
        weightOverride: weighed?.weightOverride,
        draining: same?.draining ?? false,
        up: same?.up ?? true,
      });
    }
  }
  return records;
}

/** Copies, which stay as they are. */
export const copyRecords = (records: ServerRecords): ServerRecords =>
  new Map([...records].map(([key, record]) => [key, { ...record }]));

/** The weight in force. */
export const weightOf = (record: ServerRecord): number => record.weightOverride ?? record.configuredWeight;

/** The record as the data plane takes it. */
export function toUpdate(record: ServerRecord): NativeServerUpdate {
  const { backend, server, up, draining } = record;
  return { backend, server, up, draining, weight: weightOf(record) };
}

/** What `lower()` takes beside the configuration. */
export function toStates(
  records: ServerRecords,
): Map<string, { up: boolean; draining: boolean; weight: number }> {
  return new Map(
    [...records.values()].map((r) => [r.key, { up: r.up, draining: r.draining, weight: weightOf(r) }]),
  );
}

/** What the health monitor is to check. */
export function checkTargets(config: Config): CheckTarget[] {
  return Object.entries(config.backends).flatMap(([backend, b]) => {
    const settings = {
      intervalMs: b.health_check_interval * 1000,
      fastIntervalMs: b.health_check_fast_interval_ms,
      timeoutMs: b.health_check_timeout_ms,
      rise: b.health_check_rise,
      fall: b.health_check_fall,
    };
    const vips = vipCheck(config, backend);
    return Object.entries(b.servers).flatMap(([server, { addr }]) => {
      const parsed = parseServerAddress(addr);
      if (!parsed.ok || isResolved(parsed.value)) return [];
      // The path of a Unix socket takes the place of a host.
      const { host, port } = parsed.value.kind === "unix" ? { host: addr, port: 0 } : parsed.value;
      return [{ key: serverKey(backend, server), host, port, settings, ...(vips && { vips }) }];
    });
  });
}
