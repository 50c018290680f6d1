/** `convey flows`: the live flow table of the running balancer; in proxy mode flows are the open connections. */
import { Argument, type Command } from "commander";
import { inert } from "../config/problem.ts";
import type { Flow, FlowPage } from "../control/flows.ts";
import { EXIT } from "./exit-codes.ts";
import { integer } from "./options.ts";
import { addRunningOptions, printJson, printLines, type RunningOptions, tellErrors } from "./running.ts";

type Filter = {
  protocol?: "tcp" | "udp";
  client?: string;
  frontend?: string;
  vip?: string;
  backend?: string;
  server?: string;
  state?: Flow["state"];
};
type FlowsOptions = RunningOptions & Filter & { limit: number; all?: true };

/** What the API gives at once. */
const PAGE = 1000;

export function flowsCommand(program: Command): void {
  const command = program
    .command("flows")
    .description("list the flows of the running one, show one, or end them")
    .addArgument(new Argument("<action>", "what to do").choices(["ls", "get", "kill"]))
    .argument("[flow...]", "for get and kill one flow: <tcp|udp> <client ip:port> <vip ip:port>")
    .option("--protocol <protocol>", "flows of tcp or udp alone")
    .option("--client <address>", "ip, ip/bits, ip:port or :port")
    .option("--frontend <name>", "flows of this frontend")
    .option("--vip <address>", "what the client talks to: ip, ip:port or :port")
    .option("--backend <name>", "flows of this backend")
    .option("--server <server>", "server or backend/server")
    .option("--state <state>", "new, half_open, established, closing or closed")
    .option("--limit <n>", "flows listed at most", (value) => integer(value, 10_000_000), PAGE)
    .option("--all", "kill: every flow that the options take, without options all");
  addRunningOptions(command, 'print {"flows", "cursor", "partial"}, or {"killed"}')
    .addHelpText(
      "after",
      "\nWithout the balancer's flow, TCP answers the next packet of a killed one with a reset (passthrough); in DSR its\n" +
        "next packet is given a server anew; in proxy mode both ends get a reset. get and kill exit 1 when there is none.",
    )
    .action(async (action: "ls" | "get" | "kill", operands: string[], options: FlowsOptions) => {
      const filter = filterOf(command, action, operands, options);
      await tellErrors(options.json, () => ACTIONS[action](options, filter));
    });
}

const ACTIONS = { ls, get, kill };

/** The flow that operands name, or those that options take. */
function filterOf(command: Command, action: string, operands: string[], options: FlowsOptions): Filter {
  const { protocol, client, frontend, vip, backend, server, state } = options;
  const given = Object.entries({ protocol, client, frontend, vip, backend, server, state });
  const named = Object.fromEntries(given.filter(([, value]) => value !== undefined)) as Filter;
  if (action === "ls" && operands.length === 0) return named;
  if (action === "kill" && operands.length === 0 && options.all) return named;
  if (operands.length !== 3 || action === "ls") {
    command.error(
      action === "ls"
        ? `error: "${operands[0]}" is no option; flows ls takes a filter such as --client 192.0.2.7`
        : `error: flows ${action} takes one flow, <tcp|udp> <client ip:port> <vip ip:port>${action === "kill" ? "; to end every flow that the options take, add --all" : ""}`,
    );
  }
  const [first, from, to] = operands as [Filter["protocol"] & string, string, string];
  return { ...named, protocol: first, client: from, vip: to };
}

async function ls(options: FlowsOptions, filter: Filter): Promise<void> {
  const { call } = await import("./api.ts");
  const flows: Flow[] = [];
  let cursor: string | null = null;
  let partial: string | null = null;
  do {
    const limit = Math.min(PAGE, options.limit - flows.length);
    if (limit <= 0) break;
    const query = { ...filter, limit, ...(cursor === null ? {} : { cursor }) };
    const page: FlowPage = await call(options, "get", "/api/v1/flows", { query });
    flows.push(...page.flows);
    cursor = page.cursor;
    partial ??= page.partial;
  } while (cursor !== null);
  if (options.json) return printJson({ flows, cursor, partial });
  if (flows.length > 0) printLines(table(flows));
  if (partial !== null) process.stderr.write(`convey: ${partial}\n`);
  if (cursor !== null)
    process.stderr.write(`convey: there may be more than these ${flows.length}; see --limit\n`);
}

async function get(options: FlowsOptions, filter: Filter): Promise<void> {
  const { call } = await import("./api.ts");
  const page = await call(options, "get", "/api/v1/flows", { query: filter });
  if (page.flows.length === 0) process.exitCode = EXIT.failure;
  if (options.json) return printJson(page);
  if (page.flows.length === 0) return void process.stderr.write("convey: there is no such flow\n");
  for (const flow of page.flows) {
    const { server, ...rest } = flow;
    const rows = Object.entries({ ...rest, server: serverOf(flow) }).filter(([, value]) => value !== null);
    printLines(rows.map(([name, value]) => `${`${name}:`.padEnd(15)}${value}`));
  }
}

async function kill(options: FlowsOptions, filter: Filter): Promise<void> {
  const { call } = await import("./api.ts");
  const query = { ...filter, ...(options.all ? { all: "true" as const } : {}) };
  const { killed } = await call(options, "delete", "/api/v1/flows", { query }, { patient: true });
  if (killed === 0) process.exitCode = EXIT.failure;
  if (options.json) return printJson({ killed });
  if (killed > 0) printLines([`${killed} ${killed === 1 ? "flow has" : "flows have"} ended`]);
  else process.stderr.write("convey: there is no such flow\n");
}

const WAITS_FOR: Readonly<Record<NonNullable<Flow["waits_for"]>, string>> = {
  proxy_header: "its PROXY header",
  client_hello: "its ClientHello",
  server: "a server",
};

const serverOf = ({ server }: Flow): string =>
  server === null ? "-" : inert(`${server.backend}/${server.name} (${server.addr})`);

function table(flows: readonly Flow[]): string[] {
  const rows = [
    ["PROTO", "CLIENT", "VIP", "STATE", "AGE", "IDLE", "SERVER"],
    ...flows.map((flow) => [
      flow.protocol,
      flow.client,
      flow.vip,
      flow.waits_for === null ? flow.state : `${flow.state}, waits for ${WAITS_FOR[flow.waits_for]}`,
      seconds(flow.age_ms),
      seconds(flow.idle_ms),
      serverOf(flow),
    ]),
  ];
  const widths = (rows[0] as string[]).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}

const seconds = (ms: number | null): string => (ms === null ? "-" : `${(ms / 1000).toFixed(1)}s`);
