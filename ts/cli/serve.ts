/** What `convey run` does: one balancer from a file, steered by signals, until it is told to stop. */
import type { Override } from "../config/overrides.ts";
import { Balancer } from "../control/balancer.ts";
import { VERSION } from "../control/version.ts";
import { EXIT } from "./exit-codes.ts";
import { failureText } from "./failure.ts";
import { loadOrExplain } from "./load.ts";
import { openLog, type ProgramLog } from "./logger.ts";

/** How long the last log lines may take on their way out. */
const FLUSH_MS = 500;

/** Runs until a signal or the loss of the data plane ends it; returns the exit code. */
export async function serve(file: string, overrides: readonly Override[]): Promise<number> {
  const signals = new Signals();
  const loaded = await loadOrExplain(file, overrides, { warnings: false });
  if (loaded === undefined) return EXIT.failure;
  const log = openLog(loaded.config.log.level);
  let balancer: Balancer | undefined;
  try {
    balancer = await Balancer.start(
      { configFile: file, overrides },
      { logger: log.logger, keepAlive: true, dropPrivileges: true },
    );
    tellReady(balancer, log);
  } catch (error) {
    await balancer?.close();
    await log.flush(FLUSH_MS);
    process.stderr.write(failureText(error));
    return EXIT.failure;
  }
  const lost = followEvents(balancer, log);
  signals.onReload = () => {
    log.logger.info({ signal: "SIGHUP" }, "SIGHUP: reading the configuration again");
    // The outcome is logged by the balancer.
    balancer.reload().catch(() => {});
  };

  const code = await Promise.race([
    lost.then(() => EXIT.failure),
    signals.first.then((signal) => {
      tellDraining(balancer, log, signal);
      return EXIT.ok;
    }),
  ]);
  signals.onReload = () => {};
  void signals.second.then((signal) => {
    log.logger.warn({ signal }, `${signal} again: cutting the open connections`);
    void balancer.close({ drainMs: 0 });
  });
  await balancer.close({ drainMs: code === EXIT.ok ? balancer.config.shutdown.drain_timeout_ms : 0 });
  log.logger.info({}, "stopped");
  await log.flush(FLUSH_MS);
  return code;
}

/** Listens from the start, so that a signal during start-up is not lost and does not kill half-way. */
class Signals {
  readonly first: Promise<NodeJS.Signals>;
  readonly second: Promise<NodeJS.Signals>;
  onReload: () => void = () => {};

  constructor() {
    const waiting: ((signal: NodeJS.Signals) => void)[] = [];
    const next = () => new Promise<NodeJS.Signals>((resolve) => waiting.push(resolve));
    this.first = next();
    this.second = next();
    for (const name of ["SIGTERM", "SIGINT"] as const) process.on(name, () => waiting.shift()?.(name));
    process.on("SIGHUP", () => this.onReload());
  }
}

function tellReady(balancer: Balancer, { logger }: ProgramLog): void {
  const { config } = balancer;
  const addresses = balancer.addresses();
  for (const [name, { backend }] of Object.entries(config.frontends)) {
    const at = addresses.get(name);
    // Removed by a reload meanwhile.
    if (at === undefined) continue;
    const address = text(at);
    const count = Object.keys(config.backends[backend]?.servers ?? {}).length;
    const servers = `${count} ${count === 1 ? "server" : "servers"}`;
    logger.info(
      { frontend: name, address, backend },
      `frontend ${name} listens on ${address}, backend ${backend} (${servers})`,
    );
  }
  const stats = balancer.statsAddress;
  if (stats) logger.info({ address: text(stats) }, `statistics on http://${text(stats)}/stats`);
  logger.info(
    { version: VERSION, mode: config.mode, pid: process.pid },
    `convey ${VERSION} is ready (${config.mode} mode)`,
  );
}

function tellDraining(balancer: Balancer, { logger }: ProgramLog, signal: string): void {
  const open = balancer.stats().current_connections;
  const deadline = balancer.config.shutdown.drain_timeout_ms;
  logger.info(
    { signal, connections: open },
    `${signal}: no new connections; ${open} open ones have ${deadline} ms to end, a second signal cuts them`,
  );
}

/** Keeps the log level as configured; resolves when part of the data plane is gone for good. */
async function followEvents(balancer: Balancer, { logger }: ProgramLog): Promise<void> {
  for await (const event of balancer.events()) {
    if (event.type === "reload" && event.result === "applied") logger.level = balancer.config.log.level;
    if (event.type === "fatal") return;
  }
  // Closed in the ordinary way: nothing was lost.
  await new Promise<never>(() => {});
}

function text({ host, port }: { host: string; port: number }): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
