import { expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import { environmentOverrides, flagOverrides } from "../../../ts/config/overrides.ts";
import { LEAST, linesOf } from "./support.ts";

const input = {
  frontends: { web: { listen_addr: "192.0.2.1:3000", backend: "pool" } },
  backends: { pool: { servers: { s1: { addr: "198.51.100.1:8081" } } } },
};

function configOf(extra: object, ...overrides: Parameters<typeof checkConfig>[1][]) {
  const result = checkConfig(
    { ...input, ...extra },
    overrides.flatMap((list) => list ?? []),
  );
  if (!result.ok) throw new Error(JSON.stringify(result.problems));
  return result.config;
}

test("the order is defaults, file, environment, flags", () => {
  const env = environmentOverrides({ CONVEY_LOG_LEVEL: "warn" });
  const flags = flagOverrides({ logLevel: "debug" });
  expect(configOf({}).log.level).toBe("info");
  expect(configOf({ log: { level: "error" } }).log.level).toBe("error");
  expect(configOf({ log: { level: "error" } }, env).log.level).toBe("warn");
  expect(configOf({ log: { level: "error" } }, env, flags).log.level).toBe("debug");
});

test("every variable reaches its key", () => {
  const env = environmentOverrides({
    CONVEY_MODE: "passthrough",
    CONVEY_ENGINE: "af_packet",
    CONVEY_STATS_PORT: "7001",
    CONVEY_STATS_BIND: "::1",
    CONVEY_LOG_LEVEL: "trace",
    CONVEY_DRAIN_TIMEOUT_MS: "125",
  });
  expect(configOf({}, env)).toMatchObject({
    mode: "passthrough",
    engine: "af_packet",
    stats: { port: 7001, bind: "::1" },
    log: { level: "trace" },
    shutdown: { drain_timeout_ms: 125 },
  });
});

test("every flag reaches its key", () => {
  const flags = flagOverrides({
    mode: "passthrough",
    engine: "af_packet",
    statsPort: 7002,
    statsBind: "127.0.0.2",
    logLevel: "silent",
    drainTimeoutMs: "0",
  });
  expect(configOf({}, flags)).toMatchObject({
    mode: "passthrough",
    engine: "af_packet",
    stats: { port: 7002, bind: "127.0.0.2" },
    log: { level: "silent" },
    shutdown: { drain_timeout_ms: 0 },
  });
});

test("an override keeps the other keys of its table", () => {
  const stats = { port: "7000", bind: "127.0.0.9" };
  expect(configOf({ stats }, flagOverrides({ statsPort: "1" })).stats).toEqual({
    port: 1,
    bind: "127.0.0.9",
    hosts: [],
  });
});

test("empty variables and flags that were not given change nothing", () => {
  expect(environmentOverrides({ CONVEY_MODE: "", HOME: "/root" })).toEqual([]);
  expect(flagOverrides({ mode: undefined })).toEqual([]);
});

test("a bad variable is named in place of the file", async () => {
  const env = environmentOverrides({ CONVEY_MODE: "prxy", CONVEY_DRAIN_TIMEOUT_MS: "1s" });
  expect(await linesOf(`mode = "dsr"\n${LEAST}`, env)).toEqual([
    'CONVEY_MODE: error: mode: is not a value it can have (found "prxy", expected one of "proxy", "passthrough", "dsr"); did you mean "proxy"?',
    'CONVEY_DRAIN_TIMEOUT_MS: error: shutdown.drain_timeout_ms: has the wrong type (found "1s", expected an integer from 0 to 86400000)',
  ]);
});

test("a flag that replaces a bad value of the file heals it", async () => {
  expect(await linesOf(`mode = "prxy"\n${LEAST}`, flagOverrides({ mode: "proxy" }))).toEqual([]);
});

test("what an override leaves missing is told with its name", async () => {
  const env = environmentOverrides({ CONVEY_STATS_BIND: "127.0.0.1" });
  expect(await linesOf(LEAST, env)).toEqual([
    "CONVEY_STATS_BIND: error: stats.port: is missing (expected a port from 0 to 65535, as a string or an integer)",
  ]);
});

test("what the file leaves missing is told in the file", async () => {
  const env = environmentOverrides({ CONVEY_STATS_BIND: "127.0.0.1" });
  expect(await linesOf(`${LEAST}[stats]\n`, env)).toEqual([
    "t.toml:6:1: error: stats.port: is missing (expected a port from 0 to 65535, as a string or an integer)",
  ]);
});

test("an override beneath something that is no table leaves that to be told", async () => {
  expect(await linesOf(`log = "info"\n${LEAST}`, flagOverrides({ logLevel: "warn" }))).toEqual([
    't.toml:1:7: error: log: has the wrong type (found "info", expected a table)',
  ]);
});

test("control characters of a variable are escaped", async () => {
  const [line] = await linesOf(LEAST, environmentOverrides({ CONVEY_MODE: "a\u001b[2J\r\nb" }));
  expect(line).toContain('found "a\\u001b[2J\\r\\nb"');
});
