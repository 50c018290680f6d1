import { readdir, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import { SCHEMA_FILE } from "../../../ts/config/json-schema.ts";
import { loadConfigFile } from "../../../ts/config/load.ts";
import { configTable } from "../../../ts/config/reference.ts";
import { loadSample, SAMPLES, sampleFile, withFreePorts } from "../../support/samples.ts";

test("every TOML file among the samples is tested", async () => {
  const files = (await readdir(dirname(sampleFile("minimal")))).filter((file) => file.endsWith(".toml"));
  expect(files.sort()).toEqual(SAMPLES.map((name) => `${name}.toml`).sort());
});

test.each(SAMPLES)("the %s sample has no problem and no warning", async (name) => {
  const result = await loadConfigFile(sampleFile(name));
  const problems = result.ok ? result.warnings : result.problems;
  // A checkout's umask may let the group write; that is not the sample's fault.
  expect(problems.filter(({ message }) => !message.includes("can write this file"))).toEqual([]);
});

test.each(SAMPLES)("the %s sample names the schema for editors", async (name) => {
  const [first] = (await readFile(sampleFile(name), "utf8")).split("\n");
  expect(first).toBe(`#:schema ./${SCHEMA_FILE}`);
});

test("the proxy sample is the configuration that 0.3.5 documents", async () => {
  const { mode, frontends, backends, stats } = await loadSample("proxy");
  expect(mode).toBe("proxy");
  expect(
    Object.entries(frontends).map(([name, f]) => [name, f.listen_addr?.split(":")[1], f.backend]),
  ).toEqual([
    ["tcp_3000", "3000", "tcp3000_out"],
    ["tcp_3001", "3001", "tcp3001_out"],
  ]);
  expect(Object.entries(backends).map(([name, b]) => [name, b.health_check_interval])).toEqual([
    ["tcp3000_out", 3],
    ["tcp3001_out", 3],
  ]);
  const weights = Object.values(backends).map((b) => Object.values(b.servers).map((s) => s.weight));
  expect(weights).toEqual([
    [10, 100, 1, 1],
    [1, 1],
  ]);
  expect(stats?.port).toBe(7000);
});

test.each(["passthrough", "dsr"] as const)(
  "the %s sample is the configuration that 0.3.5 documents",
  async (name) => {
    const { mode, frontends, backends, stats, passthrough } = await loadSample(name);
    expect(mode).toBe(name);
    expect(Object.entries(frontends).map(([key, f]) => [key, f.listen_addr])).toEqual([
      ["tcp_80", "0.0.0.0:80"],
    ]);
    const servers = Object.values(backends).flatMap((b) => Object.values(b.servers));
    expect(Object.values(backends)[0]?.health_check_interval).toBe(3);
    expect(servers.map((s) => [s.addr.split(":")[1], s.weight])).toEqual(Array(4).fill(["80", 1]));
    expect(stats?.port).toBe(7000);
    expect(passthrough).toMatchObject({
      connection_tracker_capacity: 20_000,
      workers: 4,
      stats_update_frequency: 5,
    });
  },
);

test("the full sample names every key", async () => {
  const text = await readFile(sampleFile("full"), "utf8");
  const keys = [...configTable().matchAll(/^\| `([^`]+)`/gm)].map((match) =>
    (match[1] as string).split(".").at(-1),
  );
  expect(keys.length).toBeGreaterThan(30);
  expect(
    keys.filter((key) => !new RegExp(`^(# )?${key} = `, "m").test(text) && !text.includes(`{ ${key} = `)),
  ).toEqual([]);
});

test("the full sample shows the defaults", async () => {
  const full = await loadSample("full");
  const least = checkConfig({
    frontends: { web: { listen_addr: "127.0.0.1:3000", backend: "web" } },
    backends: { web: { servers: { first: { addr: "127.0.0.1:8081" } } } },
    stats: { port: 7000 },
  });
  if (!least.ok) throw new Error("refused");
  const { frontends, backends, ...settings } = least.config;
  expect(full).toMatchObject(settings);
  expect(full.frontends.web).toEqual(frontends.web);
  expect(full.backends.web).toMatchObject({
    ...backends.web,
    servers: { first: backends.web?.servers.first },
  });
});

test("with free ports a sample is still sound", async () => {
  for (const name of ["minimal", "full", "proxy"] as const) {
    const config = withFreePorts(await loadSample(name));
    expect(checkConfig(config)).toMatchObject({ ok: true, warnings: [] });
    expect(Object.values(config.frontends).every(({ listen_addr }) => listen_addr?.endsWith(":0"))).toBe(
      true,
    );
  }
});
