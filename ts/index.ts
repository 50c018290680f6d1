/**
 * Convey as a library: `createBalancer()` and the types it speaks in. Importing this loads neither the
 * data plane nor anything that touches the machine.
 *
 * @module
 */

import type { Overrides } from "./config/overrides.ts";
import type { ConfigInput } from "./config/schema.ts";
import { Balancer } from "./control/balancer.ts";
import type { Backends, NamedConfig, NamesOf } from "./control/names.ts";
import type { BalancerOptions, ConfigFileSource } from "./control/options.ts";

/**
 * Starts a balancer from a configuration object (the same keys as the TOML file), or from a file. The names in a literal
 * configuration are completed and checked by the compiler wherever calls take names.
 *
 * ```ts
 * await using lb = await createBalancer({
 *   frontends: { web: { listen_addr: "127.0.0.1:0", backend: "pool" } },
 *   backends: { pool: { servers: { s1: { addr: "127.0.0.1:3001" } } } },
 * });
 * lb.address("web"); // { host: "127.0.0.1", port: 40123 }
 * await lb.drain("pool/s1");
 * ```
 *
 * Any number of balancers may run in one process. Nothing of it keeps the process alive unless
 * `options.keepAlive` is set.
 *
 * @throws ConveyError `CONFIG_INVALID` with every problem, `BIND_FAILED`, `PERMISSION_DENIED`,
 * `ENGINE_UNSUPPORTED`, `ADDON_MISSING`; the reason of `options.signal`. Nothing is left running then.
 */
export function createBalancer<const F extends string, const B extends Backends>(
  source: NamedConfig<F, B> | ConfigFileSource,
  options: BalancerOptions = {},
): Promise<Balancer<NamesOf<F, B>>> {
  return Balancer.start(source as ConfigInput | ConfigFileSource, options);
}

/**
 * Starts a balancer from a TOML file, which it follows unless `watch` is off. `overrides` win over the file.
 *
 * @throws ConveyError as `createBalancer()`.
 */
createBalancer.fromFile = (
  configFile: string,
  { overrides = [], ...options }: BalancerOptions & { overrides?: Overrides } = {},
): Promise<Balancer> => Balancer.start({ configFile, overrides }, options);

export type { Override, Overrides } from "./config/overrides.ts";
export type { KeyPath, Problem, Severity } from "./config/problem.ts";
export {
  type Config,
  type ConfigInput,
  configSchema,
  type Mode,
  type Protocol,
  type ServerInput,
} from "./config/schema.ts";
export type { Balancer } from "./control/balancer.ts";
export type { Change } from "./control/diff.ts";
export {
  type BalancerEvent,
  type DrainEvent,
  type DroppedEvent,
  type EngineEvent,
  type EventJson,
  eventJson,
  type FatalEvent,
  type ReloadEvent,
  type ResolveEvent,
  type ServerEvent,
  type ServersEvent,
  type WeightEvent,
} from "./control/events.ts";
export type { Explanation, FlowQuestion, HelloQuestion, Step } from "./control/explain.ts";
export type { Flow, FlowFilter, FlowPage, FlowPageOptions, FlowState, WaitsFor } from "./control/flows.ts";
export type { LiveDecision, LiveOptions } from "./control/live.ts";
export type { Logger } from "./control/logger.ts";
export type { Backends, NamedConfig, Names, NamesOf } from "./control/names.ts";
export { type Line, narrate } from "./control/narrate.ts";
export type {
  BalancerOptions,
  ChangeResult,
  ConfigFileSource,
  DrainOptions,
  DrainResult,
  ListenAddress,
  NewServer,
  NewServers,
  ReloadResult,
  RemoveResult,
} from "./control/options.ts";
export { loadConfig, type ParsedConfig, parseConfig } from "./control/parse.ts";
export { describePlan, type Plan, type PlanSource, type SlotChange } from "./control/plan.ts";
export type { ServerHandle } from "./control/server-handle.ts";
export type {
  BackendStats,
  CheckStats,
  ConnectionStats,
  CounterStats,
  FrontendStats,
  GuardStats,
  LastReload,
  PacketStats,
  QueueStats,
  Reasons,
  RefusedEngine,
  ServerStats,
  Stats,
} from "./control/stats.ts";
export type { Touched } from "./control/touched.ts";
export type { Finding } from "./control/wording.ts";
export type { MetricsFormat } from "./metrics/family.ts";
export { ConveyError, type ConveyErrorCode, type ErrorCode, type NativeStep } from "./native/index.ts";
