/** `convey dsr-server`: prepares a server for direct server return, on the server itself. */
import { isIP } from "node:net";
import { type Command, InvalidArgumentError, Option } from "commander";
import { hostPort, parseSocketAddress, type SocketAddress } from "../config/address.ts";
import type { NativeDsrServer, NativeDsrServerAction } from "../native/index.ts";
import { EXIT } from "./exit-codes.ts";

interface DsrServerOptions {
  method: "rewrite" | "l2";
  protocol: "tcp" | "udp";
  server?: string;
  interface?: string[];
  balancer?: string[];
  check?: true;
  undo?: true;
  print?: true;
  dryRun?: true;
  json?: true;
}

export function dsrServerCommand(program: Command): void {
  const command = program
    .command("dsr-server")
    .description("prepare this host as a server for direct server return; run it on every server")
    .argument("<vip:port>", "where clients connect; this server listens on the same port")
    .addOption(
      new Option("--method <method>", "as in the balancer's configuration")
        .choices(["rewrite", "l2"])
        .default("rewrite"),
    )
    .addOption(new Option("--protocol <protocol>", "the protocol").choices(["tcp", "udp"]).default("tcp"))
    .option(
      "--server <ip>",
      "this server's address as the balancer knows it; found by route unless given",
      ip,
    )
    .option(
      "--interface <name>",
      "where answers leave, may be given often; unless given, the one with the server's address and those that lead on",
      (value: string, previous: string[] | undefined) => [...(previous ?? []), value],
    )
    .option(
      "--balancer <ip>",
      "address health checks come from, answered unchanged; may be given often",
      (value, previous: string[] | undefined) => [...(previous ?? []), ip(value)],
    )
    .option(
      "--check",
      "tell what is missing or stands in the way, with remedies; exit 1 where answers do not arrive",
    )
    .option("--undo", "take back what was prepared")
    .option("--dry-run", "print what would be done here; change nothing")
    .option("--print", "print commands for a host without Convey, by nft and by tc; change nothing")
    .option("--json", 'print {"action", "ok", "lines"} as JSON, of --check "findings", too')
    .addHelpText(
      "after",
      "\nExample: convey dsr-server 192.0.2.10:80 --server 10.0.0.11 --balancer 10.0.0.2\n" +
        "What is prepared stays until --undo or a restart of the host.",
    )
    .action(async (vip: string, options: DsrServerOptions) => {
      const parsed = parseSocketAddress(vip, { wildcard: false });
      if (!parsed.ok) return command.error(`error: ${JSON.stringify(vip)} ${parsed.message}`);
      const action = actionOf(command, options);
      const server = {
        vip: hostPort(parsed.value),
        protocol: options.protocol,
        method: options.method,
        server: options.server ?? "",
        interfaces: options.interface ?? [],
        balancers: options.balancer ?? [],
      };
      if (action === "check") return check(parsed.value, server, options);
      const { loadDataplane } = await import("../native/index.ts");
      const lines = (await loadDataplane()).dsrServer(server, action);
      const told = lines.length > 0 ? lines : [NOTHING[action]];
      process.stdout.write(
        options.json
          ? `${JSON.stringify({ action, ok: true, lines }, undefined, 2)}\n`
          : `${told.join("\n")}\n`,
      );
      process.exitCode = EXIT.ok;
    });
}

/** Examines this server as `convey doctor` does a balancer. */
async function check(vip: SocketAddress, server: NativeDsrServer, options: DsrServerOptions): Promise<void> {
  const [
    { loadDataplane },
    { thisHost },
    { Network },
    { examineServer },
    { hasErrors, report },
    { useColor },
  ] = await Promise.all([
    import("../native/index.ts"),
    import("../doctor/host.ts"),
    import("../doctor/network.ts"),
    import("../doctor/server/table.ts"),
    import("../doctor/report.ts"),
    import("./terminal.ts"),
  ]);
  const dataplane = await loadDataplane();
  const host = thisHost(dataplane);
  const { protocol, method } = options;
  const found = dataplane.dsrServerReport(server);
  const look = { host, network: new Network(host), vip, protocol, method, report: found };
  const findings = await examineServer({ ...look, prepare: prepareCommand(server, options) });
  const ok = !hasErrors(findings);
  const lines = findings.filter(({ severity }) => severity === "error").map(({ title }) => title);
  process.stdout.write(
    options.json
      ? `${JSON.stringify({ action: "check", ok, lines, findings }, undefined, 2)}\n`
      : report(findings, { color: useColor(process.stdout.isTTY === true) }),
  );
  process.exitCode = ok ? EXIT.ok : EXIT.failure;
}

/** The command that prepares this server, with what was given. */
function prepareCommand({ vip, interfaces, balancers }: NativeDsrServer, options: DsrServerOptions): string {
  const words = ["convey dsr-server", vip];
  if (options.method !== "rewrite") words.push(`--method ${options.method}`);
  if (options.protocol !== "tcp") words.push(`--protocol ${options.protocol}`);
  if (options.server !== undefined) words.push(`--server ${options.server}`);
  words.push(
    ...interfaces.map((name) => `--interface ${name}`),
    ...balancers.map((ip) => `--balancer ${ip}`),
  );
  return words.join(" ");
}

/** What is said when there is nothing to say. */
const NOTHING: Record<Exclude<NativeDsrServerAction, "check">, string> = {
  apply: "nothing to do",
  undo: "nothing was prepared",
  plan: "nothing to do",
  print: "nothing to do",
};

function actionOf(command: Command, options: DsrServerOptions): NativeDsrServerAction {
  const asked = [
    ...(options.check ? [["--check", "check"] as const] : []),
    ...(options.undo ? [["--undo", "undo"] as const] : []),
    ...(options.dryRun ? [["--dry-run", "plan"] as const] : []),
    ...(options.print ? [["--print", "print"] as const] : []),
  ];
  const [first, second] = asked;
  if (first && second) command.error(`error: ${first[0]} and ${second[0]} were both given; choose one`);
  return first?.[1] ?? "apply";
}

function ip(value: string): string {
  if (isIP(value) !== 0 && !value.includes("%")) return value;
  throw new InvalidArgumentError("Expected an IP address.");
}
