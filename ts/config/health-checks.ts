/** What health checks ask servers for, and what is not seen then. */
import { isEverywhere } from "./listen.ts";
import { describeValue, type Finding, type KeyPath, quote } from "./problem.ts";
import { type Backend, error, type Frontend, isTable, oncePerKind, type View } from "./view.ts";

const TO_SAY_SO = 'check = "address" to say that this is meant';

/** Rules of `check`, which only dsr mode has a choice of. */
export function healthCheckRules(view: View): Finding[] {
  const backends = [...view.backends.values()];
  if (view.mode === undefined) return [];
  if (view.mode !== "dsr") {
    return backends
      .filter(({ table }) => table.check === "vip")
      .map(({ name, table }) =>
        error(
          ["backends", name, "check"],
          "value",
          `asks servers for the frontends' addresses, which they have in dsr mode alone, not in ${view.mode} mode`,
          { found: describeValue(table.check), expected: '"address", or no such key' },
        ),
      );
  }
  const used = backends.map((backend) => ({
    backend,
    frontends: view.frontends.filter(
      ({ backend: name, listen }) => name === backend.name && listen.length > 0,
    ),
    isL2: (backend.table.dsr_method ?? (isTable(view.root.dsr) ? view.root.dsr.method : undefined)) === "l2",
  }));
  const unasked = (is: (it: (typeof used)[number]) => boolean): KeyPath[] =>
    used
      .filter((it) => it.frontends.length > 0 && it.backend.table.check === undefined && is(it))
      .map(({ backend }) => ["backends", backend.name]);
  return [
    ...used.flatMap(({ backend, frontends, isL2 }) => required(backend, frontends, isL2)),
    ...oncePerKind(
      unasked(({ isL2 }) => !isL2),
      "has health checks that ask its servers' own addresses: a server whose answers do not come from the frontend's is not noticed",
      { expected: `check = "vip" to ask as clients do, or ${TO_SAY_SO}` },
    ),
    ...oncePerKind(
      unasked(({ isL2, frontends }) => isL2 && askable(frontends).length === 0),
      "has health checks that ask its servers' own addresses, since it has no TCP frontend with an address of its own to ask for: a server that lacks the frontend's is not noticed",
      { expected: `a TCP frontend with an address, or ${TO_SAY_SO}` },
    ),
  ];
}

const askable = (frontends: readonly Frontend[]): Frontend[] =>
  frontends.filter(({ protocol, listen }) => protocol === "tcp" && listen.some((own) => !isEverywhere(own)));

/** Where `check = "vip"` is written. */
function required({ name, table }: Backend, frontends: readonly Frontend[], isL2: boolean): Finding[] {
  if (table.check !== "vip" || frontends.length === 0) return [];
  const at = ["backends", name, "check"];
  const found = describeValue(table.check);
  const asked = askable(frontends);
  if (asked.length === 0) {
    const none = frontends.some(({ protocol }) => protocol === "tcp")
      ? "asks servers for the frontend's address, and the wildcard is none"
      : "asks servers by TCP for the frontend's address, and only UDP frontends use this backend";
    return [error(at, "value", none, { found, expected: '"address", or a TCP frontend with an address' })];
  }
  const [first, second] = [
    ...new Set(
      asked.flatMap(({ listen }) => listen.filter((own) => !isEverywhere(own)).map(({ host }) => host)),
    ),
  ];
  if (isL2 || second === undefined) return [];
  return [
    error(
      at,
      "value",
      `asks servers for ${quote(String(first))} and ${quote(String(second))}, and by method "rewrite" a server answers from one address`,
      { found, expected: '"address", or a backend for each address' },
    ),
  ];
}
