/**
 * Makes a draft valid: it is judged as `convey validate` would, and whatever is refused (a value out of range, a key that
 * has no place in this version, an address in use twice) is taken out and named with its line.
 */
import { judge } from "../config/check.ts";
import { ELSEWHERE } from "../config/host.ts";
import { type Finding, formatPath, inert, type KeyPath } from "../config/problem.ts";
import type { Leftovers, Table } from "./draft.ts";

/** Without one of these its table means nothing, or something that nobody must take for the same: an open door, TCP for UDP. */
const ESSENTIAL = new Set([
  "addr",
  "backend",
  "listen",
  "listen_addr",
  "protocol",
  "accept_proxy",
  "proxy_trusted",
  "send_proxy",
  "allow",
  "deny",
]);

/** What goes takes others with it, a chain no longer than this. */
const ROUNDS = 12;

/** More frontends or backends are no file of people, and rules between each two of them would take minutes. */
const MOST = 1000;

export function settle(root: Table, left: Leftovers): void {
  for (const tables of [root.table("frontends").tables, root.table("backends").tables]) {
    const over = [...tables].slice(MOST);
    if (over[0])
      left.add(
        over[0][1].line ?? 1,
        `more than ${MOST} frontends or backends: the others are not taken over`,
      );
    for (const [name] of over) tables.delete(name);
  }
  for (let round = 0; round < ROUNDS; round++) {
    if (round === 0) withoutVariables(root, left);
    halves(root, left);
    if (root.tables.get("frontends")?.tables.size === 0) break;
    const errors = judge(root.toObject(), [], ELSEWHERE).findings.filter(
      ({ severity }) => severity === "error",
    );
    if (errors.length === 0) return;
    // All are found before any is removed: a second finding about the same key must not take its table.
    const targets = errors.map((finding) => ({ finding, target: targetOf(root, finding.at) }));
    const gone = new Set<unknown>();
    for (const { finding, target } of targets) {
      if (gone.has(target.what)) continue;
      gone.add(target.what);
      left.add(target.line, `not taken over: ${wordsOf(finding)}`);
      target.remove();
    }
  }
  root.values.clear();
  root.tables.clear();
}

/** `${…}` would be a variable of the environment here, and nobody has said that it is the same one. */
function withoutVariables(table: Table, left: Leftovers): void {
  for (const [key, { value, line }] of table.values) {
    if (!JSON.stringify(value).includes("${")) continue;
    left.add(line ?? table.line ?? 1, `${key} is not taken over: it refers to a variable of the environment`);
    table.values.delete(key);
  }
  for (const inner of table.tables.values()) withoutVariables(inner, left);
}

/** Frontends without an address or a backend. Looked at here, in one pass: the rule of the configuration searches for the name that was probably meant. */
function halves(root: Table, left: Leftovers): void {
  const frontends = root.table("frontends");
  const backends = root.table("backends");
  for (const [name, frontend] of frontends.tables) {
    const backend = frontend.values.get("backend");
    if (!frontend.values.has("listen_addr") && !frontend.values.has("listen")) {
      left.add(
        frontend.line ?? 1,
        `frontend "${inert(name)}" is not taken over: it has no address that was taken over`,
      );
      frontends.tables.delete(name);
      continue;
    }
    if (backend !== undefined && backends.tables.has(String(backend.value))) {
      routesWithoutBackend(frontend, backends, left);
      continue;
    }
    const why =
      backend === undefined
        ? "it has no backend that connections go to whatever they hold"
        : `its backend "${inert(String(backend.value))}" is not there or was not taken over`;
    left.add(backend?.line ?? frontend.line ?? 1, `frontend "${inert(name)}" is not taken over: ${why}`);
    frontends.tables.delete(name);
  }
}

function routesWithoutBackend(frontend: Table, backends: Table, left: Leftovers): void {
  const routes = frontend.tables.get("sni");
  for (const [name, { value, line }] of routes?.values ?? []) {
    if (backends.tables.has(String(value))) continue;
    left.add(line ?? 1, `"${inert(name)}" is not taken over: its backend is not there or was not taken over`);
    routes?.values.delete(name);
  }
}

interface Target {
  what: unknown;
  line: number;
  remove(): void;
}

/** The value or the table that a finding is about. */
function targetOf(root: Table, at: KeyPath): Target {
  let table = root;
  let line = 1;
  let remove = () => {
    root.values.clear();
    root.tables.clear();
  };
  for (const step of at) {
    const key = String(step);
    const inner = table.tables.get(key);
    if (inner !== undefined) {
      const outer = table;
      remove = () => void outer.tables.delete(key);
      table = inner;
      line = inner.line ?? line;
      continue;
    }
    const entry = table.values.get(key);
    if (entry === undefined) break;
    const where = entry.line ?? line;
    if (ESSENTIAL.has(key)) return { what: table, line: where, remove };
    const owner = table;
    return { what: entry, line: where, remove: () => void owner.values.delete(key) };
  }
  return { what: table, line, remove };
}

function wordsOf({ at, message, found, expected }: Finding): string {
  const details = [
    ...(found === undefined ? [] : [`found ${found}`]),
    ...(expected === undefined ? [] : [`expected ${expected}`]),
  ];
  const what = message.startsWith("unknown key") ? "unknown to this version" : message;
  return `${formatPath(at)}: ${what}${details.length === 0 ? "" : ` (${details.join(", ")})`}`;
}
