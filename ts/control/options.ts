/** What `createBalancer()` is given, and the small shapes it gives back. */
import type { LoadResult } from "../config/load.ts";
import type { Overrides } from "../config/overrides.ts";
import type { Problem } from "../config/problem.ts";
import type { ServerInput } from "../config/schema.ts";
import type { Change } from "./diff.ts";
import type { Logger } from "./logger.ts";

/** A file to run from, instead of a configuration object. */
export type ConfigFileSource = {
  /** Path of a TOML file. */
  configFile: string;
  /** Settings that win over the file, at start and at every reload. */
  overrides?: Overrides;
  /** The file as it was loaded already: a pipe can be read once. @internal */
  loaded?: LoadResult;
};

/** How a balancer behaves towards the program around it. */
export type BalancerOptions = {
  /** A pino logger, or anything of that shape; silent by default. */
  logger?: Logger;
  /** Keep the process alive until `close()`. Off by default: a program that forgets `close()` still ends. */
  keepAlive?: boolean;
  /**
   * Closes the balancer at once when it is aborted, as `close()` does; the start rejects with its reason when that is
   * before or meanwhile.
   */
  signal?: AbortSignal;
  /** Follow changes of the configuration file. On by default; means nothing without one. */
  watch?: boolean;
  /**
   * In the packet modes: every thread of this process keeps, for good, only the capabilities that a reload and
   * the end need. For programs that are nothing but a balancer; off by default.
   */
  dropPrivileges?: boolean;
  /**
   * With a configuration file: open a Unix socket by which `convey healthcheck` and other commands of this user
   * reach this balancer, in /run/convey, the user's runtime folder or /tmp. Off by default.
   */
  adminSocket?: boolean;
};

/** Where something listens. */
export type ListenAddress = { host: string; port: number };

/** A server that is to come: its name, and what the configuration says of a server. */
export type NewServer = ServerInput & { name: string };

/** All servers of a backend, as a list or as the table of the configuration. */
export type NewServers = readonly NewServer[] | Readonly<Record<string, ServerInput>>;

/** What a change of the configuration or of servers did; JSON as it is. */
export type ChangeResult = {
  result: "applied" | "unchanged";
  /** What changed, for people. */
  message: string;
  /** What changed. */
  changes: Change[];
  /** What deserves a look: of the configuration, and settings that only the next start takes up. */
  warnings: Problem[];
};

/** What a reload did. */
export type ReloadResult = ChangeResult & {
  /** When it rolls back unless `confirmReload()` is called before (ISO 8601); absent when nothing waits for that. */
  confirm_by?: string;
};

/** How `drain()` goes about it. */
export type DrainOptions = {
  /** How long the open connections get, in milliseconds from when the drain takes effect. */
  deadlineMs?: number;
  /**
   * Up to so many milliseconds, a random time, pass before the drain takes effect. For several balancers in front of
   * the same servers that are told to drain at the same moment: their connections move to the other servers one
   * balancer after another, not all at once. 0 unless given.
   */
  jitterMs?: number;
};

/** How `removeServer()` ended. */
export type RemoveResult = ChangeResult & {
  /** Where it was drained before: how that ended. */
  drain?: DrainResult;
};

/** How a drain ended. */
export type DrainResult = {
  /** Whether no connection was left. */
  drained: boolean;
  /** Connections still open; absent where they are not counted. */
  connections?: number;
};
