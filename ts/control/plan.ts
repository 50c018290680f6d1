/** What a reload would change, before it does: the same judgement and the same comparison, without doing it. */

import { isDeepStrictEqual } from "node:util";
import { checkConfig } from "../config/check.ts";
import { formatProblem } from "../config/diagnostics.ts";
import type { Environment } from "../config/environment.ts";
import { type LoadResult, loadConfigFile, loadConfigText } from "../config/load.ts";
import { balanceOf, isByTable } from "../config/lower.ts";
import type { Overrides } from "../config/overrides.ts";
import type { Problem } from "../config/problem.ts";
import type { Config, ConfigInput } from "../config/schema.ts";
import { loadDataplane, type NativeMember } from "../native/index.ts";
import type { Configuration } from "./configuration.ts";
import { type Change, describeChange, diffConfig } from "./diff.ts";
import { otherMode } from "./restart.ts";
import type { Served, Service } from "./service.ts";
import { takesConnections } from "./slow-start.ts";
import { weightOf } from "./states.ts";
import { type FlowPages, type Touched, touched, touchedLine } from "./touched.ts";

/** A configuration to plan with: an object, a file, or a text with a name for messages. */
export type PlanSource = ConfigInput | { configFile: string } | { toml: string; file?: string };

/** What a reload would change; JSON as it is. */
export type Plan = {
  /** Whether a reload would get as far as putting it in service: what only the attempt shows is not known, such as taken addresses. */
  ok: boolean;
  /** What is wrong with it, errors first; empty changes where there are errors. */
  problems: Problem[];
  changes: Change[];
  /** Settings among the changes that only the next start would take up. */
  restart_needed: Problem[];
  /** Backends of which slots of the Maglev table would name another server; in proxy mode of those that have one. */
  slots: SlotChange[];
  /** Frontends that would go or listen elsewhere. Their connections go on. */
  frontends: Touched[];
  /** Servers that would go or have another address. Their connections go on. */
  servers: Touched[];
  /** Why flows may be missing from the counts, in words; `null` when all were counted. */
  partial: string | null;
};

/** Of so many slots of a backend's table so many would name another server than now: that share of new flows moves. */
export type SlotChange = { backend: string; moved: number; slots: number };

type Loaded = { ok: true; config: Config; warnings: Problem[] } | { ok: false; problems: Problem[] };

/**
 * Reads what is planned with, by the way of a reload: the overrides win over files and texts. `inService` is the file
 * that the running one has its configuration from.
 */
export async function loadPlanned(
  source: PlanSource,
  overrides: Overrides = [],
  inService?: string,
): Promise<Loaded | LoadResult> {
  if (typeof source === "object" && source !== null) {
    if ("configFile" in source) return await loadConfigFile(source.configFile, overrides);
    if ("toml" in source) {
      const { toml, file } = source;
      const env = await environmentOf(inService, overrides);
      return explained(await loadConfigText(toml, { overrides, host: true, file, env }));
    }
  }
  return checkConfig(source);
}

/**
 * What texts may refer to: the variables that the file in service refers to. A text comes from whoever may ask, and its
 * problems and changes tell what a variable holds.
 */
async function environmentOf(file: string | undefined, overrides: Overrides): Promise<Environment> {
  const own = file === undefined ? undefined : await loadConfigFile(file, overrides);
  const names = own?.ok ? own.source.variables : [];
  return Object.fromEntries(names.map((name) => [name, process.env[name]]));
}

function explained(loaded: LoadResult): LoadResult {
  if (loaded.ok) return loaded;
  const why =
    ", which is not set, or which the file in service does not refer to: a text cannot ask for others";
  const tell = (problem: Problem): Problem => ({
    ...problem,
    message: problem.message.replace(/, which is not set$/, why),
  });
  return { ...loaded, problems: loaded.problems.map(tell) };
}

/** The plan for a configuration that was loaded. */
export async function makePlan(
  loaded: Loaded | LoadResult,
  configuration: Configuration,
  service: Service,
  flows: FlowPages,
): Promise<Plan> {
  const nothing = {
    ...{ changes: [], restart_needed: [], slots: [], frontends: [], servers: [] },
    partial: null,
  };
  if (!loaded.ok) return { ok: false, problems: loaded.problems, ...nothing };
  const { config: next, problems: atRunTime } = configuration.under(loaded.config);
  const now = service.config;
  const mode = otherMode(now, next);
  const problems = [...atRunTime, ...loaded.warnings];
  if (mode !== undefined)
    problems.unshift({ severity: "error", path: "mode", message: mode.replace(/^mode: /, "") });
  problems.sort((a, b) => Number(a.severity === "warning") - Number(b.severity === "warning"));
  if (problems.some(({ severity }) => severity === "error")) return { ok: false, problems, ...nothing };
  return {
    ok: true,
    problems,
    changes: diffConfig(now, next),
    restart_needed: service.needsRestart(next),
    slots: await slotChanges(next, service),
    ...(await touched(
      now,
      next,
      { stats: service.counted(), servedAs: (key) => service.servedAs(key) },
      flows,
    )),
  };
}

/** Of backends that stay and whose servers are others or weighed otherwise; with a slow start, once that is over. */
async function slotChanges(next: Config, service: Service): Promise<SlotChange[]> {
  const { config: now } = service;
  const before = members(service.served());
  const after = members(service.servedUnder(next));
  const { movedSlots } = await loadDataplane();
  const found: SlotChange[] = [];
  for (const backend of Object.keys(next.backends)) {
    if (!Object.hasOwn(now.backends, backend)) continue;
    const [old, then] = [before.get(backend), after.get(backend)];
    if (old === undefined || then === undefined) continue;
    if (isDeepStrictEqual(old, then)) continue;
    const { moved, slots } = await movedSlots(old, then);
    if (moved > 0) found.push({ backend, moved, slots });
  }
  return found;
}

/** Who takes part in the table of each backend that has one, and how much. */
function members({ config, records }: Served): Map<string, NativeMember[]> {
  const byTable = Object.entries(config.backends).filter(([, backend]) =>
    isByTable(balanceOf(config, backend)),
  );
  const backends = new Map<string, NativeMember[]>(byTable.map(([name]) => [name, []]));
  for (const record of records.values()) {
    const { backend, server, addr } = record;
    const weight = takesConnections(record) ? weightOf(record) : 0;
    const { backup = false } = config.backends[backend]?.servers[server] ?? {};
    backends.get(backend)?.push({ addr, weight, backup });
  }
  return backends;
}

/** The plan in lines for people, without colours. */
export function describePlan(plan: Plan): string[] {
  const problems = plan.problems.map(formatProblem);
  if (!plan.ok) return [...problems, "a reload would refuse this configuration"];
  if (plan.changes.length === 0) return [...problems, "nothing would change"];
  return [
    ...problems,
    ...plan.changes.map(describeChange),
    ...plan.restart_needed.map(({ path }) => `${path} takes effect at the next start`),
    ...plan.slots.map(
      ({ backend, moved, slots }) =>
        `backend ${backend}: ${moved} of ${slots} slots (${((100 * moved) / slots).toFixed(1)} %) get another server`,
    ),
    ...plan.frontends.map((it) => touchedLine("frontend", it)),
    ...plan.servers.map((it) => touchedLine("server", it)),
    ...(plan.partial === null ? [] : [plan.partial]),
  ];
}
