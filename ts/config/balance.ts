/** Rules about how servers are chosen. */
import { describeValue, type Finding, oneOf } from "./problem.ts";
import { type Backend, error, isTable, type View, warning } from "./view.ts";
import { BALANCES } from "./words.ts";

const DEFAULT_PREFIX = 64;
/** What can be had without a state that every packet writes, in kernel programs too. */
const BY_TABLE = ["maglev", "source_hash"];

export function balanceRules(view: View): Finding[] {
  return [...view.backends.values()].flatMap((backend) => [
    ...methods(view, backend),
    ...prefix(backend),
    ...backups(backend),
  ]);
}

function methods({ mode, root }: View, { name, table }: Backend): Finding[] {
  const { balance } = table;
  // The schema has refused what is none.
  if (!BALANCES.some((known) => known === balance) || mode === undefined || mode === "proxy") return [];
  const at = ["backends", name, "balance"];
  const found = describeValue(balance);
  if (!BY_TABLE.includes(balance as string)) {
    const why = `is not available in ${mode} mode, which looks servers up in a table that no packet writes to`;
    return [error(at, "value", why, { found, expected: `${oneOf(BY_TABLE)}, or mode = "proxy"` })];
  }
  const isMinimal = isTable(root.dsr) && root.dsr.connection_tracking === "minimal";
  if (balance !== "source_hash" || mode !== "dsr" || !isMinimal) return [];
  const why =
    "is not available with minimal tracking: a reload to or from it would part clients from servers that nobody remembers";
  return [error(at, "value", why, { found, expected: '"maglev", or dsr.connection_tracking = "full"' })];
}

function prefix({ name, table }: Backend): Finding[] {
  const { balance, source_hash_ipv6_prefix: bits } = table;
  // A configuration with all defaults has it.
  if (bits === undefined || bits === DEFAULT_PREFIX || balance === "source_hash") return [];
  const at = ["backends", name, "source_hash_ipv6_prefix"];
  return [warning(at, "key", 'has no effect without balance = "source_hash"')];
}

function backups({ name, servers }: Backend): Finding[] {
  if (servers.length === 0 || servers.some(({ table }) => table.backup !== true)) return [];
  const at = ["backends", name, "servers"];
  return [warning(at, "key", "has backups alone: they get every connection, as if none of them were one")];
}
