import { expect, test } from "vitest";
import { formatProblems } from "../../../ts/config/diagnostics.ts";
import { loadConfigText } from "../../../ts/config/load.ts";
import { parseConfig } from "../../../ts/index.ts";
import { LEAST } from "./support.ts";

async function load(text: string, env: Record<string, string> = {}) {
  return await loadConfigText(text, { file: "t.toml", env });
}

async function linesOf(text: string, env: Record<string, string> = {}): Promise<string[]> {
  const result = await load(text, env);
  const problems = result.ok ? result.warnings : result.problems;
  return problems.length === 0 ? [] : formatProblems(problems).split("\n");
}

test("a variable stands anywhere in a string, more than once, and may have a default", async () => {
  const text = LEAST.replace("127.0.0.1:3000", `\${HOST}:\${PORT:-3000}`).replace("8081", `\${S:-}8081`);
  const result = await load(text, { HOST: "127.0.0.9", PORT: "" });
  if (!result.ok) throw new Error(formatProblems(result.problems));
  expect(result.config.frontends.web?.listen_addr).toBe("127.0.0.9:3000");
  expect(result.config.backends.pool?.servers.s1?.addr).toBe("127.0.0.1:8081");
  expect(result.source.variables).toEqual(["HOST", "PORT", "S"]);
});

test("a string that is one reference is read as the number or boolean that its key wants", async () => {
  const text = `${LEAST}weight = "\${WEIGHT}"
[shutdown]
keep_forwarding = "\${KEEP}"
[proxy]
workers = "\${WORKERS:-2}"
[stats]
port = "\${PORT}"
hosts = ["\${NAME}"]
[log]
level = "\${LEVEL}"
`;
  const result = await load(text, { WEIGHT: "7", KEEP: "false", PORT: "9090", NAME: "12", LEVEL: "warn" });
  if (!result.ok) throw new Error(formatProblems(result.problems));
  const { backends, shutdown, proxy, stats, log } = result.config;
  expect(backends.pool?.servers.s1?.weight).toBe(7);
  expect(shutdown.keep_forwarding).toBe(false);
  expect(proxy.workers).toBe(2);
  expect(stats).toMatchObject({ port: 9090, hosts: ["12"] });
  expect(log.level).toBe("warn");
});

test("a number within a longer string stays a string", async () => {
  const text = `${LEAST}weight = "1\${ZERO}"\n`;
  expect(await linesOf(text, { ZERO: "0" })).toEqual([
    `t.toml:6:10: error: backends.pool.servers.s1.weight: has the wrong type (found "10" from "1\${ZERO}", expected an integer from 0 to 65535)`,
  ]);
});

test("an unset variable is an error with variable, key and place, and the value is judged no further", async () => {
  const text = `${LEAST.replace('"pool"', `"\${POOL}"`)}weight = "\${WEIGHT}"\n[stats]\nport = 1\nhosts = ["a", "\${HOST}"]\n`;
  expect(await linesOf(text)).toEqual([
    `t.toml:3:11: error: frontends.web.backend: needs the environment variable POOL, which is not set (found "\${POOL}", expected POOL in the environment, or a default as in "\${POOL:-value}")`,
    `t.toml:6:10: error: backends.pool.servers.s1.weight: needs the environment variable WEIGHT, which is not set (found "\${WEIGHT}", expected WEIGHT in the environment, or a default as in "\${WEIGHT:-value}")`,
    `t.toml:9:15: error: stats.hosts.1: needs the environment variable HOST, which is not set (found "\${HOST}", expected HOST in the environment, or a default as in "\${HOST:-value}")`,
    "t.toml:4:11: warning: backends.pool: is not used by any frontend",
  ]);
});

test("what a variable holds is told with what stands in the file, escaped, and not looked into again", async () => {
  const text = `${LEAST}[log]\nlevel = "\${LEVEL}"\n`;
  const [line] = await linesOf(text, { LEVEL: `\${HOME}\u001b[2J` });
  expect(line).toContain(`found "\${HOME}\\u001b[2J" from "\${LEVEL}"`);
});

test(`$\${ stands for \${, and a single $ for itself`, async () => {
  const text = `${LEAST}[stats]\nport = 1\ntoken_file = "/a/$\${B}/$C$$/$"\n`;
  const result = await load(text);
  expect(result.ok && result.config.stats?.token_file).toBe(`/a/\${B}/$C$$/$`);
});

test.each(["{", "{}", "{1A}", "{A", "{A-b}", "{A:b} x"].map((rest) => `$${rest}`))(
  "%s is malformed",
  async (written) => {
    const [line] = await linesOf(`${LEAST}[log]\nlevel = "${written}"\n`, { A: "info" });
    expect(line).toContain(
      `t.toml:7:9: error: log.level: has \${ without the name of a variable and a } behind it`,
    );
  },
);

test("names of tables and keys are no values", async () => {
  const [line] = await linesOf(`${LEAST}[backends.pool.servers."\${A}"]\naddr = "127.0.0.1:1"\n`);
  expect(line).toBeUndefined();
});

test("a text takes the environment it is given, and an object is taken as it is", () => {
  const text = LEAST.replace("3000", `\${PORT}`);
  const { config } = parseConfig(text, { env: { PORT: "3003" } });
  expect(config.frontends.web?.listen_addr).toBe("127.0.0.1:3003");
  expect(() => parseConfig(text, { env: {} })).toThrow(/needs the environment variable PORT/);
  const input = {
    frontends: { web: { listen: `127.0.0.1:\${PORT}`, backend: "pool" } },
    backends: { pool: {} },
  };
  expect(() => parseConfig(input, { env: { PORT: "3003" } })).toThrow(
    /frontends\.web\.listen: has a port that/,
  );
});

test("include is for files, not for texts and objects", () => {
  expect(() => parseConfig(`include = "conf.d/*.toml"\n${LEAST}`, { file: "t.toml" })).toThrow(
    "t.toml:1:1: error: include: is for files: a text or an object by itself includes none",
  );
  const input = { include: ["conf.d/*"], frontends: {}, backends: {} };
  expect(() => parseConfig(input)).toThrow("include: is for files");
});
