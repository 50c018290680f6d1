/** What `convey demo` does: starts servers and a balancer in this process and tells what happens. */
import { get } from "node:http";
import { createServer } from "node:net";
import { Balancer } from "../control/balancer.ts";
import { narrate } from "../control/narrate.ts";
import { VERSION } from "../control/version.ts";
import type { DemoOptions } from "./demo.ts";
import { DemoLines } from "./demo-lines.ts";
import { DemoServer } from "./demo-servers.ts";
import { EXIT } from "./exit-codes.ts";
import { openOutput } from "./output.ts";
import { endProcess, signals } from "./signals.ts";

const NAMES = ["one", "two", "three"] as const;
const CHAOS_EVERY_MS = 10_000;
const CHAOS_FOR_MS = 5_000;

/** Runs until Ctrl-C or SIGTERM, and ends the process. */
export async function runDemo(options: DemoOptions): Promise<never> {
  const servers = await Promise.all(NAMES.map((name) => DemoServer.start(name)));
  const port = await freePort(options.port);
  const statsPort = await freePort(options.statsPort, port);
  const balancer = await Balancer.start(
    {
      frontends: { web: { listen_addr: `127.0.0.1:${port}`, backend: "demo" } },
      backends: {
        demo: {
          health_check_interval: 1,
          health_check_fast_interval_ms: 300,
          health_check_timeout_ms: 500,
          health_check_fall: 2,
          health_check_rise: 2,
          servers: Object.fromEntries(
            servers.map((server) => [server.name, { addr: `127.0.0.1:${server.port}` }]),
          ),
        },
      },
      stats: { port: statsPort },
    },
    { keepAlive: true },
  );
  const http = balancer.statsAddress;

  const { port: listening } = balancer.address("web");
  const stop = new AbortController();
  const keys = readKeys(servers, options, () => process.kill(process.pid, "SIGINT"));
  say(
    greeting(
      servers,
      `http://127.0.0.1:${listening}/`,
      `http://127.0.0.1:${http?.port ?? statsPort}`,
      keys !== undefined,
    ),
  );
  void tellEvents(balancer);
  const lines = new DemoLines();
  const timers = [
    setInterval(() => say(`${lines.next(balancer.stats())}\n`), 1000),
    startTraffic(listening, options),
    ...(options.chaos ? [startChaos(servers, stop.signal)] : []),
  ];

  void signals().second.then(() => endProcess(EXIT.ok));
  const hungUp = new Promise<void>((resolve) => signals().onReload(resolve));
  await Promise.race([signals().first, hungUp]);
  for (const timer of timers) clearInterval(timer);
  stop.abort();
  keys?.();
  say("\nstopping …\n");
  await balancer.close({ drainMs: 500 });
  await Promise.all(servers.map((server) => server.switchOff()));
  say("all stopped\n");
  await output.flush(500);
  return endProcess(EXIT.ok);
}

const output = openOutput(
  1,
  (count) => `          (${count} lines were lost: they could not be written in time)\n`,
);

function say(text: string): void {
  output.write(text);
}

function greeting(servers: readonly DemoServer[], url: string, http: string, keys: boolean): string {
  const where = servers.map((server) => `${server.name} on 127.0.0.1:${server.port}`).join(", ");
  const again = process.env.npm_lifecycle_event === "start" ? "npm start --" : "convey demo";
  return [
    `convey ${VERSION} demo: one frontend, three servers (${where})`,
    "",
    `  try          curl ${url}`,
    `               for i in 1 2 3 4 5 6; do curl -s ${url}; done`,
    `  dashboard    ${http}/`,
    `  statistics   ${http}/stats`,
    `  health       ${http}/healthz`,
    keys
      ? "  keys         1 2 3 switch a server off and on, t starts and stops traffic, Ctrl-C ends"
      : `  more         ${again} --traffic 20 opens connections by itself, --chaos switches servers off and on; Ctrl-C ends`,
    "",
    "",
  ].join("\n");
}

async function tellEvents(balancer: Balancer): Promise<void> {
  for await (const event of balancer.events()) {
    for (const { message } of narrate(event)) say(`          ${message}\n`);
  }
}

/** Switches one server after another off for a while. */
function startChaos(servers: readonly DemoServer[], stop: AbortSignal): NodeJS.Timeout {
  let turn = 0;
  return setInterval(async () => {
    const server = servers[turn++ % servers.length];
    if (server?.on !== true) return;
    say(`          (chaos: server ${server.name} is switched off)\n`);
    await server.switchOff();
    setTimeout(() => {
      if (stop.aborted) return;
      say(`          (chaos: server ${server.name} is switched on again)\n`);
      void server.switchOn().catch((error: Error) => say(`          ${server.name}: ${error.message}\n`));
    }, CHAOS_FOR_MS);
  }, CHAOS_EVERY_MS);
}

/** A client that opens `traffic` connections a second, as they stand at each tick. */
function startTraffic(port: number, options: DemoOptions): NodeJS.Timeout {
  const TICK_MS = 50;
  let owed = 0;
  return setInterval(() => {
    owed = Math.min(owed + (options.traffic * TICK_MS) / 1000, options.traffic);
    for (; owed >= 1; owed -= 1) {
      get({ host: "127.0.0.1", port, agent: false }, (response) => response.resume()).on("error", () => {});
    }
  }, TICK_MS);
}

/** Reads single keys on a terminal; returns how to stop, or undefined without one. */
function readKeys(
  servers: readonly DemoServer[],
  options: DemoOptions,
  interrupt: () => void,
): (() => void) | undefined {
  const input = process.stdin;
  if (!input.isTTY || !process.stdout.isTTY) return undefined;
  input.setRawMode(true);
  input.on("data", (bytes: Buffer) => {
    for (const key of bytes.toString()) {
      const server = servers[Number(key) - 1];
      if (key === "\u0003" || key === "q") interrupt();
      else if (key === "t") options.traffic = options.traffic === 0 ? 20 : 0;
      else if (server) void (server.on ? server.switchOff() : server.switchOn()).catch(() => {});
    }
  });
  return () => {
    input.setRawMode(false);
    input.pause();
  };
}

/** `wanted`, or the first free port after it, or any. */
async function freePort(wanted: number, except?: number): Promise<number> {
  for (let port = wanted; port < Math.min(wanted + 50, 65536); port++) {
    if (port !== except && (await canListen(port))) return port;
  }
  return 0;
}

function canListen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}
