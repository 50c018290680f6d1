/** `convey healthcheck`: asks the running Convey, for containers and service managers. */
import { get } from "node:http";
import type { Command } from "commander";
import { EXIT } from "./exit-codes.ts";
import {
  addConfigOptions,
  type ConfigOptions,
  integer,
  modeOf,
  overridesOf,
  refuseOperands,
} from "./options.ts";

interface HealthcheckOptions extends ConfigOptions {
  timeout: number;
}

export function healthcheckCommand(program: Command): Command {
  const command = program
    .command("healthcheck")
    .description("ask the running one whether it is healthy; exit 0 or 1");
  return addConfigOptions(command)
    .option(
      "--timeout <ms>",
      "milliseconds to wait for the answer",
      (value) => integer(value, 86_400_000),
      2000,
    )
    .allowExcessArguments()
    .action(async (options: HealthcheckOptions) => {
      refuseOperands(command);
      const { loadOrExplain } = await import("./load.ts");
      const loaded = await loadOrExplain(options.config, overridesOf(options, modeOf(command, options)));
      if (loaded === undefined) {
        process.exitCode = EXIT.failure;
        return;
      }
      const { stats } = loaded.config;
      if (stats === undefined || Number(stats.port) === 0) {
        process.stderr.write(
          `convey: ${options.config} names no HTTP server to ask: add [stats] with a port, or give --stats-port\n`,
        );
        process.exitCode = EXIT.failure;
        return;
      }
      const result = await askHealth(reachable(stats.bind), Number(stats.port), options.timeout);
      (result.healthy ? process.stdout : process.stderr).write(`${result.text}\n`);
      process.exitCode = result.healthy ? EXIT.ok : EXIT.failure;
    });
}

/** GET /healthz; `text` tells the outcome. */
export function askHealth(
  host: string,
  port: number,
  timeoutMs: number,
): Promise<{ healthy: boolean; text: string }> {
  const url = `http://${host.includes(":") ? `[${host}]` : host}:${port}/healthz`;
  return new Promise((resolve) => {
    const failed = (cause: string) => resolve({ healthy: false, text: `unhealthy: ${url}: ${cause}` });
    const request = get(url, { agent: false }, (response) => {
      response.resume();
      if (response.statusCode === 200) resolve({ healthy: true, text: "healthy" });
      else failed(`HTTP status ${response.statusCode}`);
    });
    const timer = setTimeout(() => {
      failed(`no answer within ${timeoutMs} ms`);
      request.destroy();
    }, timeoutMs);
    request.once("error", (error: NodeJS.ErrnoException) => {
      failed(error.code === "ECONNREFUSED" ? "connection refused: nothing runs there" : error.message);
    });
    request.once("close", () => clearTimeout(timer));
  });
}

/** A wildcard address is no destination; the same machine reaches it over loopback. */
export function reachable(bind: string): string {
  if (bind === "0.0.0.0") return "127.0.0.1";
  return bind === "::" ? "::1" : bind;
}
