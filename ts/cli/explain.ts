/** `convey explain`: what would become of a packet, by a configuration or by the running balancer. */
import type { Command } from "commander";
import type { Override } from "../config/overrides.ts";
import type { Explanation, FlowQuestion } from "../control/explain.ts";
import { EXIT } from "./exit-codes.ts";
import { addConfigOptions, type ConfigOptions, integer, modeOf, overridesOf } from "./options.ts";
import { duration } from "./running.ts";

interface ExplainOptions extends ConfigOptions {
  running?: true;
  live?: true;
  count?: number;
  duration?: number;
  json?: true;
  sni?: string;
  alpn?: string;
}

/** How long the running one may take; its workers get two seconds. */
const TIMEOUT_MS = 5000;

export function explainCommand(program: Command): void {
  const command = program
    .command("explain")
    .description("tell step by step what becomes of a packet; changes nothing, needs no privilege")
    .argument("[protocol]", "tcp or udp")
    .argument(
      "[source]",
      "ip:port the packet comes from, IPv6 in brackets; with --live also ip, ip/bits or :port",
    )
    .argument("[destination]", "ip:port it goes to; with --live also ip or :port");
  addConfigOptions(command)
    .option(
      "--running",
      "ask the running one, which knows flows, health and weights, instead of the configuration",
    )
    .option(
      "--live",
      "watch the running one: the next packets that match, proxy mode: connections, each explained",
    )
    .option("--count <n>", "with --live: end after so many", (value) => integer(value, 100_000))
    .option("--duration <time>", "with --live: end after this time, such as 30s; at most 10m", duration)
    .option(
      "--sni <name>",
      "the server name in the connection's ClientHello, where the frontend has routes by it",
    )
    .option("--alpn <protocols>", "the protocols its ClientHello offers, such as h2,http/1.1")
    .option("--json", "print JSON: every step as data, with its sentence; with --live one object a line")
    .addHelpText(
      "after",
      "\nWithout --running: an empty flow table, every server as the file has it.\n" +
        "With it: the process that runs the file is asked by its socket; where there is none for this user, or with\n" +
        "--stats-port, the HTTP server of [stats], with its token file or CONVEY_STATS_TOKEN.\n\n" +
        "--sni and --alpn tell which route of a frontend with routes in sni or alpn such a hello takes. Without both the\n" +
        "frontend's backend is explained, where hellos without a name or with an encrypted one go. Of an encrypted hello\n" +
        "give the outer name, which is all that is seen.\n\n" +
        "Example: convey explain tcp 192.0.2.7:40000 198.51.100.1:80",
    )
    .action(async (...given: [string?, string?, string?, ExplainOptions?]) => {
      const [protocol, source, destination] = given;
      const options = given[3] as ExplainOptions;
      const said = options.sni !== undefined ? "--sni" : options.alpn !== undefined ? "--alpn" : undefined;
      if (options.live) {
        if (said !== undefined) return command.error(`error: ${said} tells of one connection, not of --live`);
        if (protocol !== undefined && protocol !== "tcp" && protocol !== "udp") {
          return command.error(`error: the protocol is "tcp" or "udp", not "${protocol}"`);
        }
        const { watch } = await import("./explain-live.ts");
        return await watch(options, { protocol, client: source, vip: destination });
      }
      if (protocol === undefined || source === undefined || destination === undefined) {
        const missing = protocol === undefined ? "protocol" : source === undefined ? "source" : "destination";
        return command.error(`error: missing required argument '${missing}'`);
      }
      const { parseFlow, parseHello } = await import("../control/explain.ts");
      const flow = parseFlow(protocol, source, destination);
      if (!flow.ok) return command.error(`error: ${flow.message}`);
      const hello = parseHello(options.sni, options.alpn);
      if (!hello.ok) return command.error(`error: ${hello.message}`);
      const question = { ...flow.value, ...hello.value };
      const overrides = overridesOf(options, modeOf(command, options));
      const explanation = options.running
        ? await explainRunning(options, overrides, question)
        : await explainFile(options.config, overrides, question);
      if (explanation === undefined) {
        process.exitCode = EXIT.failure;
        return;
      }
      process.stdout.write(
        options.json ? `${JSON.stringify(explanation, undefined, 2)}\n` : sentences(explanation),
      );
    });
}

/** The explanation in numbered steps, the verdict last. */
export function sentences(explanation: Explanation): string {
  const { protocol, source, destination, steps, verdict } = explanation;
  const numbered = steps.map(({ text }, i) => `${String(i + 1).padStart(3)}. ${text}`);
  return `${[`${protocol} ${source} -> ${destination}`, ...numbered, `verdict: ${verdict}`].join("\n")}\n`;
}

async function explainFile(
  file: string,
  overrides: readonly Override[],
  flow: FlowQuestion,
): Promise<Explanation | undefined> {
  const { loadOrExplain } = await import("./load.ts");
  const loaded = await loadOrExplain(file, overrides);
  if (loaded === undefined) return undefined;
  const [{ lower }, { loadDataplane }, { assertLooksAtHello, nativeHello, toExplanation }] =
    await Promise.all([
      import("../config/lower.ts"),
      import("../native/index.ts"),
      import("../control/explain.ts"),
    ]);
  const addon = await loadDataplane();
  const { protocol, source, destination } = flow;
  const hello = nativeHello(flow);
  const native = addon.explainConfig(lower(loaded.config), protocol, source, destination, hello);
  assertLooksAtHello(flow, native, loaded.config);
  return toExplanation(flow, native);
}

async function explainRunning(
  options: ExplainOptions,
  overrides: readonly Override[],
  flow: FlowQuestion,
): Promise<Explanation> {
  const [{ askRunning }, { ConveyError }] = await Promise.all([
    import("./client.ts"),
    import("../native/index.ts"),
  ]);
  const { alpn, ...rest } = flow;
  const query = new URLSearchParams({ ...rest, ...(alpn && { alpn: alpn.join(",") }) });
  const path = `/api/v1/explain?${query}`;
  const named = options.statsPort !== undefined;
  const question = { path, timeoutMs: TIMEOUT_MS, token: true };
  const reply = await askRunning(options.config, overrides, question, { named });
  if (!reply.ok) throw new ConveyError("UNREACHABLE", `cannot ask the running convey: ${reply.text}`);
  const answer = parsed(reply.body);
  if (reply.status === 200 && answer !== undefined) return answer as Explanation;
  const cause = (answer as { error?: string } | undefined)?.error ?? `HTTP status ${reply.status}`;
  throw new ConveyError("INTERNAL", `${reply.by} does not explain: ${cause}`);
}

function parsed(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return undefined;
  }
}
