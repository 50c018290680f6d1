/**
 * What the control plane knows of each server beyond the configuration: health, drain, weight set at run
 * time. Records are carried over from one configuration to the next by backend and server name.
 *
 * What survives a reload: health, drain and weight while the address stays; a weight set at run time
 * additionally gives way when the file's own weight changes, since the file then speaks last.
 */
import { type ServerState, serverKey, WHOLE_SHARE } from "../config/lower.ts";
import type { Config } from "../config/schema.ts";
import { isResolved, parseServerAddress, type ServerAddress } from "../config/server-address.ts";
import type { NativeServerUpdate } from "../native/index.ts";
import { askByName, askOf, checkSettings, isChecked } from "./health/ask.ts";
import type { CheckTarget } from "./health/monitor.ts";
import { checkSource, proxyHeaderForChecks } from "./health/proxy-header.ts";
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
  /** What health checks hold it for. */
  up: boolean;
  /** Of its backend. */
  readonly slowStartMs: number;
  /** Whether it takes new connections, as `settle()` last saw. */
  serves: boolean;
  /** When its slow start began, in the time of `performance.now()`; undefined when it is in none. */
  slowSince: number | undefined;
  /** Twentieths of its weight that count. */
  share: number;
  /** It gets no new connections until then, because clients' connections to it failed. */
  ejection: { until: Date; cause: string } | undefined;
};

/** Whether it may get connections: checks hold it for up, and it is not ejected. */
export const isUp = ({ up, ejection }: Pick<ServerRecord, "up" | "ejection">): boolean =>
  up && ejection === undefined;

/** Records by `serverKey()`. */
export type ServerRecords = ReadonlyMap<string, ServerRecord>;

/**
 * Records for `config`, to be settled (`slow-start.ts`); `previous` stays as it was. A server or weight that `previous`
 * does not have any more comes back as it was in `earlier`.
 */
export function carryOver(
  config: Config,
  previous: ServerRecords,
  earlier: ServerRecords = new Map(),
): ServerRecords {
  const records = new Map<string, ServerRecord>();
  for (const [backend, settings] of Object.entries(config.backends)) {
    for (const [server, { addr, weight }] of Object.entries(settings.servers)) {
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
        // One that nobody checks any more would stay down for good.
        up: isChecked(settings) ? (same?.up ?? true) : true,
        ejection: settings.eject_after > 0 ? same?.ejection : undefined,
        slowStartMs: settings.slow_start_ms,
        // One that comes back from `earlier` was away.
        serves: old?.serves ?? false,
        slowSince: old?.slowSince,
        share: old?.share ?? WHOLE_SHARE,
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
  const { backend, server, draining, share } = record;
  return { backend, server, up: isUp(record), draining, weight: weightOf(record), share };
}

/** What `lower()` takes beside the configuration. */
export function toStates(records: ServerRecords): Map<string, Required<ServerState>> {
  return new Map(
    [...records.values()].map((r) => {
      const { draining, share } = r;
      return [r.key, { up: isUp(r), draining, weight: weightOf(r), share }];
    }),
  );
}

/**
 * What the health monitor is to check. `config` has no names; `nameOf` tells the one that a server, by `serverKey()`, has
 * its address from.
 */
export function checkTargets(
  config: Config,
  nameOf: (key: string) => string | undefined = () => undefined,
): CheckTarget[] {
  return Object.entries(config.backends).flatMap(([backend, b]) => {
    if (!isChecked(b)) return [];
    const settings = checkSettings(b);
    const ask = askOf(config, backend);
    const vips = vipCheck(config, backend);
    const asked = b.health_check?.port;
    return Object.entries(b.servers).flatMap(([server, { addr, send_proxy }]) => {
      const parsed = parseServerAddress(addr);
      if (!parsed.ok || isResolved(parsed.value)) return [];
      // The path of a Unix socket takes the place of a host.
      const { host, port } = parsed.value.kind === "unix" ? { host: addr, port: 0 } : parsed.value;
      const at = placeOf(parsed.value, asked);
      const key = serverKey(backend, server);
      const name = parseServerAddress(nameOf(key) ?? "");
      const own =
        name.ok && name.value.kind === "name" ? askByName(ask, name.value.host, asked ?? port) : ask;
      const first = proxyHeaderForChecks(send_proxy ?? b.send_proxy);
      const source = parsed.value.kind === "unix" ? undefined : checkSource(b.source, host);
      return [{ key, host, port, settings, at, ask: own, first, source, ...(vips && { vips }) }];
    });
  });
}

/** Where checks go instead of the server's address and port: `port` is what the configuration has them ask. */
function placeOf(
  address: Exclude<ServerAddress, { kind: "name" | "srv" }>,
  port: number | undefined,
): CheckTarget["at"] {
  if (address.kind === "unix") return { path: address.path };
  return port === undefined ? undefined : { host: address.host, port };
}
