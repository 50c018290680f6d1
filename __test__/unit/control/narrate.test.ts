import { expect, test } from "vitest";
import { type BalancerEvent, EventHub, eventJson, type ReloadEvent } from "../../../ts/control/events.ts";
import { narrate, narratePacketPath, Reporter } from "../../../ts/control/narrate.ts";

const at = new Date(0);
const down = {
  type: "server",
  backend: "app",
  server: "one",
  addr: "127.0.0.1:1",
  cause: "why",
  at,
} as const;

test.each<[BalancerEvent, string[]]>([
  [{ ...down, state: "up", left: 1 }, ["info: server app/one is up: why"]],
  [{ ...down, state: "down", left: 1 }, ["warn: server app/one is down: why"]],
  [
    { ...down, state: "down", left: 0 },
    ["warn: server app/one is down: why", "error: backend app has no server left"],
  ],
  [
    { type: "drain", backend: "app", server: "one", state: "deadline", connections: 2, at },
    ["info: drain of app/one: deadline"],
  ],
  [
    { type: "drain", backend: "app", server: "one", state: "progress", connections: 2, at },
    ["info: drain of app/one: progress, 2 connections left"],
  ],
  [{ type: "drain", backend: "app", server: "one", state: "enabled", at }, ["info: server app/one enabled"]],
  [
    { type: "weight", backend: "app", server: "one", weight: 3, configured: false, at },
    ["info: weight of app/one is 3"],
  ],
  [
    { type: "weight", backend: "app", server: "one", weight: 1, configured: true, at },
    ["info: weight of app/one is 1 again, as configured"],
  ],
  [
    {
      type: "servers",
      changes: [{ kind: "added", what: "server", name: "app/\u202etwo" }],
      config_version: 2,
      at,
    },
    ["info: at run time: +1 server app/\\u202etwo"],
  ],
  [{ type: "engine", kind: "warning", frontend: "", worker: "", message: "look", at }, ["warn: look"]],
  [
    { type: "engine", kind: "worker-panicked", frontend: "", worker: "1", message: "gone", at },
    ["error: gone"],
  ],
  [{ type: "fatal", message: "over", at }, ["error: over"]],
  [{ type: "dropped", count: 3, at }, ["warn: 3 events were lost"]],
])("an event of type $type is told in lines of its own", (event, lines) => {
  expect(narrate(event).map(({ level, message }) => `${level}: ${message}`)).toEqual(lines);
});

test("a refused reload is an error that says what serves on, an applied one says what changed", () => {
  const reload: ReloadEvent = {
    type: "reload",
    result: "applied",
    source: "file",
    message: "",
    changes: [],
    config_version: 2,
    at,
  };
  expect(narrate({ ...reload, result: "rejected", message: "bad" })).toEqual([
    {
      level: "error",
      fields: { source: "file" },
      message: "reload rejected, the old configuration serves on: bad",
    },
  ]);
  expect(narrate({ ...reload, result: "applied", message: "in service" })).toEqual([
    { level: "info", fields: { source: "file", config_version: 2 }, message: "reload: in service" },
  ]);
});

test("a packet path is told with the engines this host refused, and with its guard where it has one", () => {
  const lines = narratePacketPath({
    engine: "af_packet",
    refused: [
      {
        engine: "tc",
        kind: "unsupported",
        errno: 95,
        cause: "eth0 has no tcx",
        remedy: "use a newer kernel",
      },
    ],
    guard: "nft",
    interfaces: ["eth0"],
    notes: ["look"],
    flows: 0,
    flowCapacity: 1,
    forwarded: 0,
    replied: [],
    answered: [],
    passed: [],
    dropped: [],
    noted: [],
    natPortProbes: [],
    workerPanics: 0,
  });
  expect(lines.map(({ level, message }) => `${level}: ${message}`)).toEqual([
    "info: engine af_packet forwards on eth0; nft keeps the kernel from answering",
    "info: engine tc was not taken: eth0 has no tcx; use a newer kernel",
    "warn: look",
  ]);
});

test("a logger that throws keeps no event from its readers and stops nothing", async () => {
  const broken = (): never => {
    throw new Error("disk full");
  };
  const hub = new EventHub();
  const events = hub.subscribe();
  const reporter = new Reporter(hub, { debug: broken, info: broken, warn: broken, error: broken });
  reporter.fatal("over");
  expect((await events.next()).value).toMatchObject({ type: "fatal", message: "over" });
});

test("a trial is a warning until it is confirmed, and told as it ended", () => {
  const trial: ReloadEvent = {
    type: "reload",
    result: "applied",
    source: "file",
    message: "in service",
    changes: [],
    config_version: 2,
    confirm_by: at,
    at,
  };
  const { confirm_by: _, ...over } = trial;
  const lines = [
    trial,
    { ...over, result: "confirmed" as const },
    { ...over, result: "rolled_back" as const },
  ];
  expect(lines.flatMap(narrate).map(({ level, message }) => `${level}: ${message}`)).toEqual([
    "warn: reload: in service",
    "info: reload confirmed: in service",
    "warn: reload rolled back: in service",
  ]);
});

test("an event as JSON has its times as ISO 8601 and says the same", () => {
  const event: ReloadEvent = {
    type: "reload",
    result: "applied",
    source: "file",
    message: "in service",
    changes: [{ kind: "changed", path: "stats", from: undefined, to: { port: 7000 } }],
    config_version: 2,
    confirm_by: at,
    at,
  };
  const json = eventJson(event);
  expect(json).toEqual({
    ...event,
    changes: [{ kind: "changed", path: "stats", to: { port: 7000 } }],
    confirm_by: "1970-01-01T00:00:00.000Z",
    at: "1970-01-01T00:00:00.000Z",
  });
  expect(narrate(json)).toEqual(narrate(event));
});
