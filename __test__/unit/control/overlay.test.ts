import { expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import type { Config, ServerConfig } from "../../../ts/config/schema.ts";
import {
  edit,
  NO_CHANGES,
  type Overlay,
  rebase,
  serverIn,
  withChanges,
} from "../../../ts/control/overlay.ts";

function config(servers: Record<string, { addr: string; weight?: number }>, backend = "app"): Config {
  const checked = checkConfig({
    frontends: { web: { listen_addr: ":80", backend } },
    backends: { [backend]: { servers } },
  });
  if (!checked.ok) throw new Error(JSON.stringify(checked.problems));
  return checked.config;
}

const server = (n: number, weight = 1): ServerConfig => ({
  addr: `10.0.0.${n}:80`,
  weight,
  max_connections: 0,
  backup: false,
});
const names = (base: Config, overlay: Overlay): string[] =>
  Object.keys(withChanges(base, overlay).backends.app?.servers ?? {});
const changed = (base: Config, name: string, now: ServerConfig | undefined, overlay = NO_CHANGES): Overlay =>
  edit(base, overlay, [{ backend: "app", server: name, now }]);

const BASE = config({ one: { addr: "10.0.0.1:80" }, two: { addr: "10.0.0.2:80" } });

test("without changes the configuration is the very same", () => {
  expect(withChanges(BASE, NO_CHANGES)).toBe(BASE);
});

test("what is set back to what the configuration says is no change", () => {
  const removed = changed(BASE, "one", undefined);
  expect(names(BASE, removed)).toEqual(["two"]);
  expect(changed(BASE, "one", server(1), removed).size).toBe(0);
  const added = changed(BASE, "three", server(3));
  expect(serverIn(BASE, added, "app", "three")).toEqual(server(3));
  expect(changed(BASE, "three", undefined, added).size).toBe(0);
});

test("a change stands while the configuration's own entry is the same, whatever else changes", () => {
  let overlay = changed(BASE, "three", server(3));
  overlay = changed(BASE, "one", undefined, overlay);
  const other = config({ one: { addr: "10.0.0.1:80" }, two: { addr: "10.0.0.2:80", weight: 7 } });
  expect(names(other, rebase(overlay, other))).toEqual(["two", "three"]);
});

test.each<[string, Config, string[]]>([
  ["names it", config({ one: { addr: "10.0.0.1:80" }, three: { addr: "10.0.0.9:80" } }), ["three"]],
  ["differs", config({ one: { addr: "10.0.0.1:80", weight: 2 } }), ["one", "three"]],
  ["goes", config({}), ["three"]],
  ["has another backend", config({ one: { addr: "10.0.0.1:80" } }, "other"), []],
])("a change ends when the configuration %s", (_, next, left) => {
  let overlay = changed(BASE, "three", server(3));
  overlay = changed(BASE, "one", undefined, overlay);
  expect(names(next, rebase(overlay, next))).toEqual(left);
});

test("names that objects have by themselves are names like others", () => {
  const overlay = changed(BASE, "constructor", server(3));
  expect(serverIn(BASE, NO_CHANGES, "app", "constructor")).toBeUndefined();
  expect(serverIn(BASE, NO_CHANGES, "toString", "one")).toBeUndefined();
  expect(names(BASE, overlay)).toContain("constructor");
});
