/** `convey drain`, `enable` and `weight`: servers of the running balancer. */
import { Argument, type Command, InvalidArgumentError } from "commander";
import type { ConveyError } from "../native/index.ts";
import { EXIT } from "./exit-codes.ts";
import {
  addRunningOptions,
  duration,
  printJson,
  type RunningOptions,
  serverName,
  serverNames,
  tellErrors,
} from "./running.ts";

type Name = ReturnType<typeof serverName>;
type Change = {
  weight?: number | null;
  state?: "enabled" | "draining";
  deadline_ms?: number;
  jitter_ms?: number;
};
/** A server as the API answers. */
type Shown = {
  backend: string;
  name: string;
  weight: number;
  current_connections?: number | undefined;
  drain?: { drained: boolean; connections?: number | undefined } | undefined;
};

const JSON_SHAPE = 'print {"servers": [as GET /api/v1/servers/…], "errors": [{"server", "error", "code"}]}';
const servers = () => new Argument("<server...>", "backend/server").argParser(serverNames);

export function drainCommand(program: Command): void {
  const command = program
    .command("drain")
    .description("give servers no new connections; open ones may end. Until `convey enable`")
    .addArgument(servers())
    .option("--deadline <time>", "how long open connections get, such as 30s", duration)
    .option(
      "--jitter <time>",
      "begin after a random part of this time, so that several do not at once",
      duration,
    )
    .option("--wait", "wait for the end; exit 1 when connections are left then");
  addRunningOptions(command, JSON_SHAPE).action(
    async (names: Name[], options: RunningOptions & { deadline?: number; jitter?: number; wait?: true }) => {
      const change: Change = {
        state: "draining",
        ...(options.deadline === undefined ? {} : { deadline_ms: options.deadline }),
        ...(options.jitter === undefined ? {} : { jitter_ms: options.jitter }),
      };
      await changeAll(names, options, change, drained, options.wait === true);
    },
  );
}

export function enableCommand(program: Command): void {
  const command = program
    .command("enable")
    .description("end the drain of servers: they take new connections again while they are up")
    .addArgument(servers());
  addRunningOptions(command, JSON_SHAPE).action(async (names: Name[], options: RunningOptions) => {
    await changeAll(names, options, { state: "enabled" }, () => "enabled");
  });
}

export function weightCommand(program: Command): void {
  const command = program
    .command("weight")
    .description("set the weight of a server until its configured weight changes")
    .addArgument(new Argument("<server>", "backend/server").argParser(serverName))
    .addArgument(new Argument("<weight>", "0 to 65535, or default: the configured one").argParser(weightOf));
  addRunningOptions(command, JSON_SHAPE).action(
    async (name: Name, weight: number | "default", options: RunningOptions) => {
      const change = { weight: weight === "default" ? null : weight };
      await changeAll([name], options, change, ({ weight }) => `weight ${weight}`);
    },
  );
}

function weightOf(value: string): number | "default" {
  if (value === "default") return value;
  if (/^\d{1,5}$/.test(value) && Number(value) <= 65_535) return Number(value);
  throw new InvalidArgumentError('Expected a whole number from 0 to 65535, or "default".');
}

function drained({ drain, current_connections: open }: Shown): string {
  if (drain === undefined) {
    return open === undefined ? "draining, connections are not counted" : `draining, ${some(open)} open`;
  }
  if (drain.drained) return "drained";
  return drain.connections === undefined
    ? "draining, connections are not counted"
    : `draining, ${some(drain.connections)} still open`;
}

const some = (n: number): string => `${n} ${n === 1 ? "connection" : "connections"}`;

/** All at once; one that fails does not keep the others. */
async function changeAll(
  names: readonly Name[],
  options: RunningOptions,
  json: Change,
  told: (server: Shown) => string,
  wait = false,
): Promise<void> {
  const { call } = await import("./api.ts");
  const { inert } = await import("../config/problem.ts");
  const path = "/api/v1/servers/{backend}/{server}";
  const query = wait ? { wait: "true" as const } : {};
  await tellErrors(options.json, async () => {
    const ends = await Promise.allSettled(
      names.map((params) => call(options, "patch", path, { params, query, json }, { patient: wait })),
    );
    const done = ends.flatMap((end) => (end.status === "fulfilled" ? [end.value] : []));
    const errors = ends.flatMap((end, i) => {
      if (end.status === "fulfilled") return [];
      const { backend, server } = names[i] as Name;
      const { message, code }: { message: string; code: string } = end.reason as ConveyError;
      return [{ server: `${backend}/${server}`, error: message, code }];
    });
    // Nobody was there to be asked: that is one error, not one for each.
    if (done.length === 0 && errors.every(({ code }) => code === "UNREACHABLE" || code === "UNAUTHORIZED")) {
      throw (ends[0] as PromiseRejectedResult).reason;
    }
    const left = done.some(({ drain }) => drain?.drained === false);
    if (errors.length > 0 || left) process.exitCode = EXIT.failure;
    if (options.json) return printJson({ servers: done, errors });
    for (const server of done) {
      process.stdout.write(`${inert(`${server.backend}/${server.name}`)}: ${told(server)}\n`);
    }
    if (errors.length === 0) return;
    const suggestion = await suggestions(options);
    for (const { server, error, code } of errors) {
      const meant = code === "NOT_FOUND" ? suggestion(server) : "";
      process.stderr.write(`convey: ${inert(error)}${meant}\n`);
    }
  });
}

/** What a name that nobody has was probably meant to be. */
async function suggestions(options: RunningOptions): Promise<(name: string) => string> {
  const [{ call }, { nearest }, { inert }] = await Promise.all([
    import("./api.ts"),
    import("../config/nearest.ts"),
    import("../config/problem.ts"),
  ]);
  const { servers } = await call(options, "get", "/api/v1/servers", {}).catch(() => ({ servers: [] }));
  const names = servers.map(({ backend, name }) => `${backend}/${name}`);
  return (name) => {
    const near = nearest(name, names);
    return near === undefined ? "" : `; did you mean "${inert(near)}"?`;
  };
}
