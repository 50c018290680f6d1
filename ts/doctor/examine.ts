/** Runs the checks of a table, in order; what cannot be looked at is told as such. */
import type { Config } from "../config/schema.ts";
import type { Finding, Found } from "./finding.ts";
import { NotChecked } from "./finding.ts";
import type { Check, Look } from "./look.ts";
import { CHECKS } from "./table.ts";

/** Everything that is found on a balancer. */
export function examine(look: Look, checks: readonly Check[] = CHECKS): Promise<Finding[]> {
  const applies = ({ modes }: Check): boolean =>
    modes === undefined || modes.includes(look.config.mode as Config["mode"]);
  return inOrder(checks.filter(applies), (check) => check.find(look));
}

/** Asks one check after the other: they share what commands have answered. */
export async function inOrder<Each extends { name: string }>(
  checks: readonly Each[],
  ask: (check: Each) => Found[] | Promise<Found[]>,
): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const check of checks) {
    for (const found of await guarded(() => ask(check))) findings.push({ check: check.name, ...found });
  }
  return findings;
}

async function guarded(ask: () => Found[] | Promise<Found[]>): Promise<Found[]> {
  try {
    return await ask();
  } catch (cause) {
    if (cause instanceof NotChecked) return [cause.finding()];
    throw cause;
  }
}
