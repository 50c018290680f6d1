import { expect, test } from "vitest";
import { type BalancerEvent, EventHub, type ReloadEvent } from "../../../ts/control/events.ts";
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
