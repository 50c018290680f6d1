/** `convey explain`: what would become of a packet, by a configuration or by the running balancer. */
import { get } from "node:http";
import type { Command } from "commander";
import type { Config } from "../config/schema.ts";
import type { Explanation } from "../control/explain.ts";
import { EXIT } from "./exit-codes.ts";
import { addConfigOptions, type ConfigOptions, modeOf, overridesOf } from "./options.ts";

interface ExplainOptions extends ConfigOptions {
  running?: true;
  json?: true;
}

/** How long the running one may take; its workers get two seconds. */
const TIMEOUT_MS = 5000;

export function explainCommand(program: Command): void {
  const command = program
    .command("explain")
    .description("tell step by step what becomes of a packet; changes nothing, needs no privilege")
    .argument("<protocol>", "tcp or udp")
    .argument("<source>", "ip:port the packet comes from, IPv6 in brackets")
    .argument("<destination>", "ip:port it goes to");
  addConfigOptions(command)
    .option(
      "--running",
      "ask the running one, which knows flows, health and weights, instead of the configuration",
    )
    .option("--json", "print JSON instead of sentences")
    .addHelpText(
      "after",
      "\nWithout --running: an empty flow table, every server as the file has it.\n" +
        "With it: the HTTP server that [stats] names is asked, with its token file or CONVEY_STATS_TOKEN.\n\n" +
        "Example: convey explain tcp 192.0.2.7:40000 198.51.100.1:80",
    )
    .action(async (protocol: string, source: string, destination: string, options: ExplainOptions) => {
      const { parseFlow } = await import("../control/explain.ts");
      const flow = parseFlow(protocol, source, destination);
      if (!flow.ok) return command.error(`error: ${flow.message}`);
      const { loadOrExplain } = await import("./load.ts");
      const overrides = overridesOf(options, modeOf(command, options));
      const loaded = await loadOrExplain(options.config, overrides, { warnings: options.running !== true });
      if (loaded === undefined) {
        process.exitCode = EXIT.failure;
        return;
      }
      const explanation = options.running
        ? await askRunning(loaded.config, options.config, flow.value)
        : await explainConfig(loaded.config, flow.value);
      process.stdout.write(
        options.json ? `${JSON.stringify(explanation, undefined, 2)}\n` : sentences(explanation),
      );
    });
}

type Question = Pick<Explanation, "protocol" | "source" | "destination">;

/** The explanation in numbered steps, the verdict last. */
export function sentences(explanation: Explanation): string {
  const { protocol, source, destination, steps, verdict } = explanation;
  const numbered = steps
    .filter((step) => !step.startsWith("verdict: "))
    .map((step, i) => `${String(i + 1).padStart(3)}. ${step}`);
  return `${[`${protocol} ${source} -> ${destination}`, ...numbered, `verdict: ${verdict}`].join("\n")}\n`;
}

async function explainConfig(config: Config, flow: Question): Promise<Explanation> {
  const [{ lower }, { loadDataplane }, { toExplanation }] = await Promise.all([
    import("../config/lower.ts"),
    import("../native/index.ts"),
    import("../control/explain.ts"),
  ]);
  const addon = await loadDataplane();
  const { protocol, source, destination } = flow;
  return toExplanation(flow, addon.explainConfig(lower(config), protocol, source, destination));
}

async function askRunning(config: Config, file: string, flow: Question): Promise<Explanation> {
  const [{ adminSettings }, { ConveyError }] = await Promise.all([
    import("../http/access.ts"),
    import("../native/index.ts"),
  ]);
  const { stats } = config;
  if (stats === undefined || stats.port === 0) {
    throw new ConveyError(
      "CONFIG_INVALID",
      `${file} names no HTTP server to ask: add [stats] with a port, or give --stats-port`,
    );
  }
  const { host, port, token } = await adminSettings(stats, process.env);
  const { reachable } = await import("./healthcheck.ts");
  const query = new URLSearchParams({ ...flow }).toString();
  const name = reachable(host);
  const url = `http://${name.includes(":") ? `[${name}]` : name}:${port}/api/v1/explain?${query}`;
  const { status, body } = await fetchText(url, token);
  const answer = parsed(body);
  if (status === 200 && answer !== undefined) return answer as Explanation;
  const cause = (answer as { error?: string } | undefined)?.error ?? `HTTP status ${status}`;
  throw new ConveyError("INTERNAL", `${name}:${port} does not explain: ${cause}`);
}

function fetchText(url: string, token: string | undefined): Promise<{ status: number; body: string }> {
  const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  return new Promise((resolve, reject) => {
    const failed = async (cause: string) => {
      const { ConveyError } = await import("../native/index.ts");
      reject(new ConveyError("NOT_FOUND", `cannot ask the running convey at ${new URL(url).host}: ${cause}`));
    };
    const request = get(url, { agent: false, headers, timeout: TIMEOUT_MS }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (text: string) => {
        body += text;
      });
      response.once("end", () => resolve({ status: response.statusCode ?? 0, body }));
    });
    request.once("timeout", () => request.destroy(new Error(`no answer within ${TIMEOUT_MS} ms`)));
    request.once("error", (error: NodeJS.ErrnoException) => {
      void failed(error.code === "ECONNREFUSED" ? "connection refused: nothing runs there" : error.message);
    });
  });
}

function parsed(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return undefined;
  }
}
