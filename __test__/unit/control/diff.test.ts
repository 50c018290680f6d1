import { expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import type { Config, ConfigInput } from "../../../ts/config/schema.ts";
import { describeChanges, diffConfig } from "../../../ts/control/diff.ts";

const SERVERS = { one: { addr: "127.0.0.1:1", weight: 2 }, two: { addr: "127.0.0.1:2" } };

function config(more: Partial<ConfigInput> = {}): Config {
  const checked = checkConfig({
    frontends: { web: { listen_addr: "127.0.0.1:80", backend: "app" } },
    backends: { app: { servers: SERVERS } },
    ...more,
  });
  if (!checked.ok) throw new Error(JSON.stringify(checked.problems));
  return checked.config;
}

const told = (before: Config, after: Config): string => describeChanges(diffConfig(before, after));

test("equal configurations differ in nothing", () => {
  expect([diffConfig(config(), config()), told(config(), config())]).toEqual([[], ""]);
});

test("servers that come, go and change are named with their backend", () => {
  const { two, ...kept } = SERVERS;
  const servers = { ...kept, one: { ...SERVERS.one, weight: 3 }, three: { addr: "127.0.0.1:3" } };
  expect(told(config(), config({ backends: { app: { servers } } }))).toBe(
    "+1 server app/three, −1 server app/two, weight app/one 2→3",
  );
  expect(two).toBeDefined();
});

test("frontends and backends are named, and their settings by key path", () => {
  const after = config({
    frontends: {
      web: { listen_addr: "127.0.0.1:81", backend: "app" },
      api: { listen_addr: "127.0.0.1:90", backend: "api" },
    },
    backends: { app: { retries: 5, servers: SERVERS }, api: { servers: { s: { addr: "127.0.0.1:9" } } } },
  });
  expect(told(config(), after)).toBe(
    "+1 frontend api, +1 backend api, +1 server api/s, frontends.web.listen_addr 127.0.0.1:80→127.0.0.1:81, backends.app.retries 2→5",
  );
});

test("settings that come and go are told as from or to none", () => {
  const after = config({ stats: { port: 7000 }, log: { level: "debug" } });
  expect(told(config(), after)).toContain('stats none→{"port":7000');
  expect(told(after, config())).toContain("→none");
  expect(told(config(), after)).toContain("log.level info→debug");
});

test("of many names and settings a few are told, and how many more", () => {
  const many = Object.fromEntries(
    Array.from({ length: 100 }, (_, i) => [`s${i}`, { addr: `127.0.0.2:${i + 1}` }]),
  );
  const before = config({ backends: { app: { servers: many } } });
  expect(told(config(), before)).toMatch(/^\+100 servers app\/s0, app\/s1, app\/s2 and 97 more, −2 servers/);
  const heavy = Object.fromEntries(Object.entries(many).map(([name, s]) => [name, { ...s, weight: 9 }]));
  expect(told(before, config({ backends: { app: { servers: heavy } } }))).toMatch(
    /weight app\/s5 1→9, and 94 more changes$/,
  );
});
