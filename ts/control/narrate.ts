/**
 * The one place that puts what happens into words: an event becomes log lines with a level, fields and a
 * sentence. The log, the demo and whoever shows events to people use these.
 */
import { formatProblem } from "../config/diagnostics.ts";
import { inert, type Problem } from "../config/problem.ts";
import type { NativePacketStats } from "../native/index.ts";
import { describeChanges } from "./diff.ts";
import type { BalancerEvent, EventHub, EventJson, ReloadEvent, ResolveEvent } from "./events.ts";
import type { Logger } from "./logger.ts";

/** One line of the log. */
export type Line = { level: "info" | "warn" | "error"; fields: object; message: string };

/** What an event says, as it happened or as JSON; most say one line. */
export function narrate(event: BalancerEvent | EventJson): Line[] {
  // Names may hold marks that reorder text.
  return told(event).map((line) => ({ ...line, message: inert(line.message) }));
}

function told(event: BalancerEvent | EventJson): Line[] {
  switch (event.type) {
    case "server": {
      const { backend, server, addr, state, cause, left } = event;
      const message = `server ${backend}/${server} is ${state}: ${cause}`;
      const fields = { backend, server, addr, state };
      if (state === "up") return [{ level: "info", fields, message }];
      const none: Line = {
        level: "error",
        fields: { backend },
        message: `backend ${backend} has no server left`,
      };
      return [{ level: "warn", fields, message }, ...(left === 0 ? [none] : [])];
    }
    case "servers": {
      const { config_version, changes } = event;
      return [
        { level: "info", fields: { config_version }, message: `at run time: ${describeChanges(changes)}` },
      ];
    }
    case "weight": {
      const { backend, server, weight, configured } = event;
      const again = configured ? " again, as configured" : "";
      const message = `weight of ${backend}/${server} is ${weight}${again}`;
      return [{ level: "info", fields: { backend, server, weight }, message }];
    }
    case "resolve":
      return [narrateResolve(event)];
    case "reload":
      return [narrateReload(event)];
    case "drain": {
      const { backend, server, connections, state } = event;
      const fields = { backend, server, connections };
      if (state === "enabled")
        return [{ level: "info", fields, message: `server ${backend}/${server} enabled` }];
      const open =
        state === "progress" && connections !== undefined ? `, ${connections} connections left` : "";
      return [{ level: "info", fields, message: `drain of ${backend}/${server}: ${state}${open}` }];
    }
    case "engine": {
      const { kind, frontend, worker, message } = event;
      const level = kind === "worker-panicked" ? "error" : "warn";
      return [{ level, fields: { kind, frontend, worker }, message }];
    }
    case "fatal":
      return [{ level: "error", fields: {}, message: event.message }];
    case "dropped":
      return [{ level: "warn", fields: { count: event.count }, message: `${event.count} events were lost` }];
  }
}

/** Addresses told of one kind, before "and n more". */
const ADDRESSES = 4;

type Resolve = ResolveEvent | Extract<EventJson, { type: "resolve" }>;

function narrateResolve({ backend, server, name, state, addresses, added, removed, cause }: Resolve): Line {
  const some = (sign: string, list: readonly string[]): string[] => {
    if (list.length === 0) return [];
    const more = list.length > ADDRESSES ? ` and ${list.length - ADDRESSES} more` : "";
    return [`${sign}${list.slice(0, ADDRESSES).join(`, ${sign}`)}${more}`];
  };
  const count = addresses.length;
  const has = count === 0 ? "has no address and is down" : `has ${count} address${count === 1 ? "" : "es"}`;
  const stays = state !== "resolved" && count > 0 ? "; the last good stay" : "";
  const changes = [...some("+", added), ...some("−", removed)].join(", ");
  const why = cause === "" ? "" : `; ${cause}`;
  return {
    level: cause === "" && count > 0 ? "info" : "warn",
    fields: { backend, server, name, state, addresses: count },
    message: `server ${backend}/${server} (${name}) ${has}${changes && `: ${changes}`}${why}${stays}`,
  };
}

function narrateReload({
  result,
  source,
  message,
  config_version,
  confirm_by,
}: ReloadEvent | Extract<EventJson, { type: "reload" }>): Line {
  const by = confirm_by && { confirm_by: new Date(confirm_by).toISOString() };
  const fields = { source, config_version, ...by };
  switch (result) {
    case "applied":
    case "unchanged":
      return { level: confirm_by === undefined ? "info" : "warn", fields, message: `reload: ${message}` };
    case "confirmed":
      return { level: "info", fields, message: `reload confirmed: ${message}` };
    case "rolled_back":
      return { level: "warn", fields, message: `reload rolled back: ${message}` };
    case "rejected": {
      const kept = `reload rejected, the old configuration serves on: ${message}`;
      return { level: "error", fields: { source }, message: kept };
    }
  }
}

/** What a configuration warns of. */
export const narrateWarnings = (warnings: readonly Problem[]): Line[] =>
  warnings.map((warning) => ({
    level: "warn",
    fields: { path: warning.path },
    message: formatProblem(warning),
  }));

/** Where packets are forwarded, which engines could not do it, and what an operator should know about the host. */
export function narratePacketPath({ engine, refused, guard, interfaces, notes }: NativePacketStats): Line[] {
  const method = guard === "tcx" ? "a kernel program (tcx)" : guard;
  const where = `engine ${engine} forwards on ${interfaces.join(", ")}`;
  // Some engines take packets before the kernel sees them.
  const message = guard === "" ? where : `${where}; ${method} keeps the kernel from answering`;
  return [
    { level: "info", fields: { engine, guard, interfaces }, message },
    ...refused.map(({ engine, kind, errno, cause, remedy }): Line => {
      const advice = remedy === "" ? "" : `; ${remedy}`;
      return {
        level: "info",
        fields: { engine, kind, errno },
        message: `engine ${engine} was not taken: ${cause}${advice}`,
      };
    }),
    ...notes.map((note): Line => ({ level: "warn", fields: {}, message: note })),
  ];
}

/** Tells events to their readers and to the log. */
export class Reporter {
  readonly #events: EventHub;
  readonly #log: Logger;

  constructor(events: EventHub, log: Logger) {
    this.#events = events;
    this.#log = log;
  }

  emit(event: BalancerEvent): void {
    this.#events.emit(event);
    this.write(narrate(event));
  }

  /** Lines that are no event. A logger that throws is no reason to stop balancing. */
  write(lines: readonly Line[]): void {
    for (const { level, fields, message } of lines) {
      try {
        this.#log[level](fields, message);
      } catch {}
    }
  }

  info(fields: object, message: string): void {
    this.write([{ level: "info", fields, message }]);
  }

  /** The data plane or its surroundings deserve a look. */
  engine(
    kind: "worker-panicked" | "accept-backoff" | "health-check-suspended" | "warning",
    message: string,
    { frontend, worker }: { frontend: string; worker: string } = { frontend: "", worker: "" },
  ): void {
    this.emit({ type: "engine", kind, frontend, worker, message, at: new Date() });
  }

  fatal(message: string): void {
    this.emit({ type: "fatal", message, at: new Date() });
  }
}
