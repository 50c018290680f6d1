/** What `convey run` does: one balancer from a file, steered by signals, until it is told to stop. */
import { setTimeout as sleep } from "node:timers/promises";
import { hostPort } from "../config/address.ts";
import type { Override } from "../config/overrides.ts";
import { inert } from "../config/problem.ts";
import { unserved } from "../config/unserved.ts";
import { Balancer } from "../control/balancer.ts";
import { VERSION } from "../control/version.ts";
import { end } from "./end.ts";
import { EXIT } from "./exit-codes.ts";
import { failureText } from "./failure.ts";
import { type Loaded, loadOrExplain } from "./load.ts";
import { openLog, type ProgramLog } from "./logger.ts";
import { favourTraffic } from "./priority.ts";
import { ServiceManager } from "./service-manager.ts";
import { type Signals, signals } from "./signals.ts";

/** How long the last log lines may take on their way out. */
const FLUSH_MS = 500;
/** How long freeing everything may take once a second signal has cut the connections. */
const CUT_MS = 1000;
/** After so long, reading the configuration is worth a word. */
const PATIENCE_MS = 3000;

/** Runs until a signal or the loss of the data plane ends it, and ends the process. */
export async function serve(file: string, overrides: readonly Override[]): Promise<never> {
  const steering = signals();
  const loaded = await loadUnlessEnded(file, overrides, steering);
  if (loaded === "ended") return await end(EXIT.ok);
  if (loaded === undefined) return await end(EXIT.failure);
  const log = openLog(loaded.config.log.level);
  const manager = await ServiceManager.of(process.env, log.logger);
  const code = await balance(file, overrides, loaded, log, steering, manager);
  manager.close();
  await log.flush(FLUSH_MS);
  return await end(code);
}

/** Waits for ever for a pipe that nobody writes to, but not longer than until a signal. */
async function loadUnlessEnded(
  file: string,
  overrides: readonly Override[],
  steering: Signals,
): Promise<Loaded | undefined | "ended"> {
  const patience = setTimeout(() => {
    process.stderr.write(`convey: still reading ${inert(file)}, which does not end\n`);
  }, PATIENCE_MS);
  const loading = loadOrExplain(file, overrides, { warnings: false, host: true, timeoutMs: 0 });
  const loaded = await Promise.race([loading, steering.first.then(() => "ended" as const)]);
  clearTimeout(patience);
  return loaded;
}

async function balance(
  file: string,
  overrides: readonly Override[],
  loaded: Loaded,
  log: ProgramLog,
  steering: Signals,
  manager: ServiceManager,
): Promise<number> {
  let balancer: Balancer | undefined;
  try {
    balancer = await Balancer.start(
      { configFile: file, overrides, loaded },
      { logger: log.logger, keepAlive: true, dropPrivileges: true, adminSocket: true },
    );
    favourTraffic();
    if (!steering.ending) {
      tellReady(balancer, file, loaded, log);
      manager.tellSockets(balancer);
      manager.ready(balancer);
    }
  } catch (error) {
    await balancer?.close();
    await log.flush(FLUSH_MS);
    const text = failureText(error);
    process.stderr.write(text);
    manager.failed(text);
    return EXIT.failure;
  }
  const lost = followEvents(balancer, log, manager);
  steering.onReload(() => {
    log.logger.info({ signal: "SIGHUP" }, "SIGHUP: reading the configuration again");
    manager.reloading();
    // The outcome is logged by the balancer.
    void balancer
      .reload()
      .catch(() => {})
      .finally(() => {
        if (!steering.ending) manager.ready(balancer);
      });
  });

  steering.onReopen(() => reopenLog(balancer, log));

  const code = await Promise.race([
    lost.then(() => EXIT.failure),
    steering.first.then((signal) => {
      tellDraining(balancer, log, signal);
      return EXIT.ok;
    }),
  ]);
  steering.onReload(() => {});
  const cut = steering.second.then(async (signal) => {
    log.logger.warn({ signal }, `${signal} again: cutting the open connections`);
    // Something that hangs, such as a reload's file, does not keep the process; its end frees the rest.
    await Promise.race([balancer.close({ drainMs: 0 }), sleep(CUT_MS)]);
  });
  const { drain_timeout_ms, delay_ms } = balancer.config.shutdown;
  const [drainMs, delayMs] = code === EXIT.ok ? [drain_timeout_ms, delay_ms] : [0, 0];
  manager.stopping(delayMs + drainMs);
  await Promise.race([balancer.close({ drainMs, delayMs }), cut]);
  log.logger.info({}, "stopped");
  return code;
}

function tellReady(balancer: Balancer, file: string, { source }: Loaded, { logger }: ProgramLog): void {
  const { config } = balancer;
  const told = balancer.stats().frontends;
  for (const [name, { backend }] of Object.entries(config.frontends)) {
    const address = told[name]?.address ?? "";
    const count = Object.keys(config.backends[backend]?.servers ?? {}).length;
    const servers = `${count} ${count === 1 ? "server" : "servers"}`;
    logger.info(
      { frontend: name, address, backend },
      `frontend ${name} listens on ${address}, backend ${backend} (${servers})`,
    );
  }
  for (const limit of unserved(config)) logger.info({ mode: config.mode }, limit);
  const stats = balancer.statsAddress;
  if (stats) {
    const url = `http://${hostPort(stats)}`;
    logger.info({ address: hostPort(stats) }, `dashboard on ${url}/, statistics on ${url}/stats`);
  }
  if (!source.regular) {
    logger.info({ file }, `${inert(file)} is no regular file and is not watched; SIGHUP reads it again`);
  }
  logger.info(
    { version: VERSION, mode: config.mode, pid: process.pid },
    `convey ${VERSION} is ready (${config.mode} mode)`,
  );
}

function reopenLog(balancer: Balancer, { logger }: ProgramLog): void {
  try {
    if (balancer.reopenLog())
      logger.info({ signal: "SIGUSR1" }, "SIGUSR1: the file of log.connections is opened anew");
    else
      logger.info(
        { signal: "SIGUSR1" },
        "SIGUSR1: no log.connections_file is in use; the log is standard error",
      );
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    logger.error({ signal: "SIGUSR1" }, `SIGUSR1: ${why}; the file that was open goes on`);
  }
}

function tellDraining(balancer: Balancer, { logger }: ProgramLog, signal: string): void {
  if (balancer.keepsForwarding) {
    logger.info({ signal }, `${signal}: the kernel goes on forwarding`);
    return;
  }
  const { drain_timeout_ms: deadline, delay_ms: delay } = balancer.config.shutdown;
  if (delay > 0) {
    const then = `open connections then have ${deadline} ms to end, a second signal cuts them`;
    const message = `${signal}: not ready any more; new connections are taken for ${delay} ms yet, ${then}`;
    logger.info({ signal, delay_ms: delay }, message);
    return;
  }
  const open = balancer.stats().current_connections;
  const wait =
    open === undefined
      ? `connections are not counted, open ones have ${deadline} ms to end, a second signal cuts them`
      : open === 0
        ? "none is open"
        : `${open} open ${open === 1 ? "one has" : "ones have"} ${deadline} ms to end, a second signal cuts ${open === 1 ? "it" : "them"}`;
  logger.info({ signal, connections: open }, `${signal}: no new connections; ${wait}`);
}

/** Keeps the log level as configured; resolves when part of the data plane is gone for good. */
async function followEvents(
  balancer: Balancer,
  { logger }: ProgramLog,
  manager: ServiceManager,
): Promise<void> {
  for await (const event of balancer.events()) {
    if (event.type === "server" || event.type === "reload") manager.changed(balancer);
    if (event.type === "reload" && event.result === "applied") logger.level = balancer.config.log.level;
    if (event.type === "fatal") return;
  }
  // Closed in the ordinary way: nothing was lost.
  await new Promise<never>(() => {});
}
