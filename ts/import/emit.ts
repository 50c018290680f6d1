/** Keys that both importers write: their names stand here once. */
import type { Table } from "./draft.ts";

type Left = (line: number, message: string) => void;

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

/** Backends by the name that a ClientHello asks for. */
export function setSni(
  rules: readonly { names: readonly string[]; backend: string; line: number }[],
  left: Left,
): void {
  for (const { backend, line } of rules) {
    left(line, `not taken over: this version chooses no backend by the name in a ClientHello ("${backend}")`);
  }
}
