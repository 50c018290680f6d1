/**
 * What a service manager such as systemd gives a service, and wants to hear of it: sockets that it opened
 * (LISTEN_FDS, sd_listen_fds(3)), readiness, reloads, the end, and a sign of life (NOTIFY_SOCKET, sd_notify(3)).
 * Without one, all of this does nothing.
 */
import { hostPort } from "../config/address.ts";
import { inert } from "../config/problem.ts";
import type { Balancer } from "../control/balancer.ts";
import type { Logger } from "../control/logger.ts";
import { type DataplaneModule, loadDataplane } from "../native/index.ts";

/** What the end may take beyond the time connections get. */
const END_MS = 15_000;
/** The shortest time between two states that tell how many servers are up. */
const STATUS_MS = 1000;
/** More descriptors than this are nobody's socket unit. */
const MAX_PASSED = 1024;

/** A socket that was passed on, and how the manager calls it. */
type Passed = { name: string; address: string; problem: string };

type Tell = (state: string) => void;

/** See the module's head. */
export class ServiceManager {
  readonly #tell: Tell | undefined;
  readonly #watchdogMs: number | undefined;
  readonly #passed: readonly Passed[];
  readonly #logger: Logger;
  #watchdog: NodeJS.Timeout | undefined;
  #statusSoon: NodeJS.Timeout | undefined;
  #failed = false;

  /** Takes what the environment tells, and the variables out of it: they are not for children. */
  static async of(env: NodeJS.ProcessEnv, logger: Logger): Promise<ServiceManager> {
    const module = await loadDataplane();
    const manager = new ServiceManager(module, env, logger);
    for (const name of VARIABLES) delete env[name];
    return manager;
  }

  private constructor(module: DataplaneModule, env: NodeJS.ProcessEnv, logger: Logger) {
    this.#logger = logger;
    this.#passed = passedSockets(module, env);
    const socket = env.NOTIFY_SOCKET;
    if (!socket) return;
    this.#tell = (state) => module.notifyServiceManager(socket, state);
    const watchdogUs = Number(env.WATCHDOG_USEC);
    const mine = !env.WATCHDOG_PID || Number(env.WATCHDOG_PID) === process.pid;
    if (watchdogUs > 0 && mine) this.#watchdogMs = Math.max(1, Math.floor(watchdogUs / 2000));
  }

  /** It serves: at the start and after a reload. */
  ready(balancer: Balancer): void {
    if (this.#tell === undefined) return;
    this.#say(["READY=1", `STATUS=${statusOf(balancer)}`]);
    if (this.#watchdogMs === undefined || this.#watchdog !== undefined) return;
    this.#watchdog = setInterval(() => this.#say(["WATCHDOG=1"]), this.#watchdogMs);
    this.#watchdog.unref();
    this.#say(["WATCHDOG=1"]);
  }

  /** A reload that was asked for by a signal begins; `ready()` is to follow, however it ends. */
  reloading(): void {
    // CLOCK_MONOTONIC, by which systemd tells this reload from the one before.
    const us = process.hrtime.bigint() / 1000n;
    this.#say(["RELOADING=1", `MONOTONIC_USEC=${us}`, "STATUS=reading the configuration again"]);
  }

  /** Something has changed that the state names. */
  changed(balancer: Balancer): void {
    if (this.#tell === undefined || this.#statusSoon !== undefined) return;
    this.#statusSoon = setTimeout(() => {
      this.#statusSoon = undefined;
      this.#say([`STATUS=${statusOf(balancer)}`]);
    }, STATUS_MS);
    this.#statusSoon.unref();
  }

  /** The end begins; open connections get `drainMs`, for which the manager is to wait. The watchdog goes on. */
  stopping(drainMs: number): void {
    clearTimeout(this.#statusSoon);
    this.#say([
      "STOPPING=1",
      `EXTEND_TIMEOUT_USEC=${(drainMs + END_MS) * 1000}`,
      "STATUS=no new connections; open ones have their time to end",
    ]);
  }

  /** Why there will be no service. */
  failed(message: string): void {
    this.#say([`STATUS=${inert(message.split("\n", 1)[0] ?? "")}`]);
  }

  close(): void {
    clearInterval(this.#watchdog);
    clearTimeout(this.#statusSoon);
  }

  /** Says which sockets that were passed on are in use, and which are not and why. */
  tellSockets(balancer: Balancer): void {
    const served = addressesOf(balancer);
    for (const [place, { name, address, problem }] of this.#passed.entries()) {
      const which = `descriptor ${place + 3} of the service manager${name === "" ? "" : ` (${inert(name)})`}`;
      const fields = { descriptor: place + 3, name, address };
      if (problem !== "") this.#logger.warn(fields, `${which} is not used: ${problem}`);
      else if (served.has(address)) this.#logger.info(fields, `${which} is the socket of ${address}`);
      else {
        this.#logger.warn(
          fields,
          `${which} is not used: it listens on ${address}, which is neither where a frontend listens nor the address of ` +
            "[stats]; whoever connects to it waits",
        );
      }
    }
  }

  #say(lines: readonly string[]): void {
    try {
      this.#tell?.(lines.join("\n"));
    } catch (error) {
      // One of these is enough; the sign of life alone comes every few seconds.
      if (this.#failed) return;
      this.#failed = true;
      const why = error instanceof Error ? error.message : String(error);
      this.#logger.warn({}, `the service manager cannot be told how this service is: ${why}`);
    }
  }
}

const VARIABLES = [
  "NOTIFY_SOCKET",
  "WATCHDOG_USEC",
  "WATCHDOG_PID",
  "LISTEN_PID",
  "LISTEN_FDS",
  "LISTEN_FDNAMES",
];

function passedSockets(module: DataplaneModule, env: NodeJS.ProcessEnv): Passed[] {
  const count = Number(env.LISTEN_FDS);
  const ours = Number(env.LISTEN_PID) === process.pid && count > 0 && count <= MAX_PASSED;
  if (!ours) return [];
  const names = (env.LISTEN_FDNAMES ?? "").split(":");
  return module.takePassedSockets().map((socket, place) => ({ ...socket, name: names[place] ?? "" }));
}

/** Where this balancer listens: in the packet modes frontends have no sockets. */
function addressesOf(balancer: Balancer): Set<string> {
  const { config, statsAddress } = balancer;
  const frontends = config.mode === "proxy" ? Object.keys(config.frontends) : [];
  return new Set(
    [...frontends.flatMap((name) => balancer.addresses(name)), ...(statsAddress ? [statsAddress] : [])].map(
      hostPort,
    ),
  );
}

function statusOf(balancer: Balancer): string {
  const servers = Object.values(balancer.stats().backends).flatMap((b) => Object.values(b.server_details));
  const up = servers.filter((server) => server.up).length;
  return `${balancer.config.mode} mode, ${up} of ${servers.length} servers up`;
}
