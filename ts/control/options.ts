/** What `createBalancer()` is given, and the small shapes it gives back. */
import type { LoadResult } from "../config/load.ts";
import type { Overrides } from "../config/overrides.ts";
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

/** How a drain ended. */
export type DrainResult = {
  /** Whether no connection was left. */
  drained: boolean;
  /** Connections still open; absent where they are not counted. */
  connections?: number;
};
