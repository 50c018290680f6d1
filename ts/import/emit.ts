/** Keys that both importers write: their names stand here once. */
import type { Table } from "./draft.ts";

/** Where a frontend listens. */
export function setListen(table: Table, listen: readonly string[], line: number): void {
  const all = [...new Set(listen)];
  const [only] = all;
  if (only !== undefined && all.length === 1)
    table.set(/-\d+$/.test(only) ? "listen" : "listen_addr", only, line);
  else if (all.length > 1) table.set("listen", all, line);
}

export function setAccess(
  table: Table,
  { allow, deny }: { allow: readonly string[]; deny: readonly string[] },
  line: number | undefined,
): void {
  if (allow.length > 0) table.set("allow", allow, line);
  if (deny.length > 0) table.set("deny", deny, line);
}

/** Backends by the name that a ClientHello asks for. Of two rules for one name the first counts, as it does there. */
export function setSni(
  table: Table,
  rules: readonly { names: readonly string[]; backend: string; line: number }[],
): void {
  const seen = new Set<string>();
  for (const { names, backend, line } of rules) {
    for (const name of names) {
      if (seen.has(name.toLowerCase())) continue;
      seen.add(name.toLowerCase());
      table.table("sni", line, "names in the ClientHello").set(name, backend, line);
    }
  }
}
