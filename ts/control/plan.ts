/** What a reload would change, before it does: the same judgement and the same comparison, without doing it. */
import { isDeepStrictEqual } from "node:util";
import { checkConfig } from "../config/check.ts";
import { formatProblem } from "../config/diagnostics.ts";
import { type LoadResult, loadConfigFile, loadConfigText } from "../config/load.ts";
import type { Overrides } from "../config/overrides.ts";
import type { Problem } from "../config/problem.ts";
import type { Config, ConfigInput } from "../config/schema.ts";
import { loadDataplane, type NativeMember } from "../native/index.ts";
import type { Configuration } from "./configuration.ts";
import { type Change, describeChange, diffConfig } from "./diff.ts";
import { otherMode } from "./restart.ts";
import type { Service } from "./service.ts";
import { isUp, type ServerRecords, weightOf } from "./states.ts";
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
  /** Backends of which slots of the Maglev table would name another server; in the packet modes alone. */
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

/** Reads what is planned with, by the way of a reload: the overrides win over files and texts. */
export async function loadPlanned(
  source: PlanSource,
  overrides: Overrides = [],
): Promise<Loaded | LoadResult> {
  if (typeof source === "object" && source !== null) {
    if ("configFile" in source) return await loadConfigFile(source.configFile, overrides);
    if ("toml" in source) {
      const { toml, file } = source;
      return await loadConfigText(toml, { overrides, host: true, ...(file === undefined ? {} : { file }) });
    }
  }
  return checkConfig(source);
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

/** Of backends that stay and whose servers are others or weighed otherwise. */
async function slotChanges(next: Config, service: Service): Promise<SlotChange[]> {
  const { config: now, servers } = service;
  if (now.mode === "proxy") return [];
  const [before, after] = [servers.records, service.recordsUnder(next)].map(members);
  const { movedSlots } = await loadDataplane();
  const found: SlotChange[] = [];
  for (const backend of Object.keys(next.backends)) {
    if (!Object.hasOwn(now.backends, backend)) continue;
    const [old, then] = [before?.get(backend) ?? [], after?.get(backend) ?? []];
    if (isDeepStrictEqual(old, then)) continue;
    const { moved, slots } = await movedSlots(old, then);
    if (moved > 0) found.push({ backend, moved, slots });
  }
  return found;
}

/** Who takes part in the table of each backend, and how much. */
function members(records: ServerRecords): Map<string, NativeMember[]> {
  const backends = new Map<string, NativeMember[]>();
  for (const record of records.values()) {
    const list = backends.get(record.backend) ?? [];
    backends.set(record.backend, list);
    list.push({ addr: record.addr, weight: isUp(record) && !record.draining ? weightOf(record) : 0 });
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
