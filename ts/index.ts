/**
 * Convey as a library: `createBalancer()` and the types it speaks in. Importing this loads neither the
 * data plane nor anything that touches the machine.
 */

import type { ConfigInput } from "./config/schema.ts";
import { Balancer } from "./control/balancer.ts";
import type { BalancerOptions, ConfigFileSource } from "./control/options.ts";

/**
 * Starts a balancer from a configuration object (the same keys as the TOML file) or from a file.
 *
 *     await using lb = await createBalancer({
 *       frontends: { web: { listen_addr: "127.0.0.1:0", backend: "pool" } },
 *       backends: { pool: { servers: { s1: { addr: "127.0.0.1:3001" } } } },
 *     });
 *     lb.address("web"); // { host: "127.0.0.1", port: 40123 }
 *
 * Any number of balancers may run in one process. Nothing of it keeps the process alive unless
 * `options.keepAlive` is set.
 *
 * @throws ConveyError `CONFIG_INVALID` with every problem, `BIND_FAILED`, `PERMISSION_DENIED`,
 * `ENGINE_UNSUPPORTED`, `ADDON_MISSING`; nothing is left running then.
 */
export function createBalancer(
  source: ConfigInput | ConfigFileSource,
  options: BalancerOptions = {},
): Promise<Balancer> {
  return Balancer.start(source, options);
}

export type { Override, Overrides } from "./config/overrides.ts";
export type { Problem } from "./config/problem.ts";
export type { Config, ConfigInput, Mode } from "./config/schema.ts";
export type { Balancer } from "./control/balancer.ts";
export type { Change } from "./control/diff.ts";
export type {
  BalancerEvent,
  DrainEvent,
  DroppedEvent,
  EngineEvent,
  FatalEvent,
  ReloadEvent,
  ServerEvent,
  ServersEvent,
  WeightEvent,
} from "./control/events.ts";
export type { Explanation, Step } from "./control/explain.ts";
export type { Flow, FlowFilter, FlowPage, FlowPageOptions, FlowState } from "./control/flows.ts";
export type { LiveDecision, LiveOptions } from "./control/live.ts";
export type { Logger } from "./control/logger.ts";
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
export { describePlan, type Plan, type PlanSource, type SlotChange, type Touched } from "./control/plan.ts";
export type {
  BackendStats,
  CheckStats,
  CounterStats,
  FrontendStats,
  GuardStats,
  LastReload,
  PacketStats,
  Reasons,
  ServerStats,
  Stats,
} from "./control/stats.ts";
export { ConveyError, type ConveyErrorCode } from "./native/index.ts";
