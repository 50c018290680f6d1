import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Client, echoServer, type TestServer } from "../../support/control.ts";
import type { Running } from "../../support/processes.ts";
import { convey, folder, serving } from "./convey.ts";

let directory: Awaited<ReturnType<typeof folder>>;
let servers: TestServer[];
let running: Running;
let file: string;
let env: NodeJS.ProcessEnv;
let port: number;

const toml = (weight = 1) => `
[frontends.web]
listen_addr = "127.0.0.1:0"
backend = "pool"
[backends.pool.servers]
s1 = { addr = "${servers[0]?.addr}" }
s2 = { addr = "${servers[1]?.addr}", weight = ${weight} }
`;

beforeAll(async () => {
  directory = await folder();
  servers = [await echoServer("s1"), await echoServer("s2")];
  file = join(directory.path, "web.toml");
  env = { ...process.env, CONVEY_STATE_DIR: join(directory.path, "state"), NO_COLOR: "1" };
  await writeFile(file, toml());
  running = serving(["-c", file], env);
  port = Number((await running.waitFor(/listens on 127\.0\.0\.1:(\d+)/))[1]);
  await running.waitFor(/is ready/);
});

afterAll(async () => {
  await running[Symbol.asyncDispose]();
  for (const server of servers) await server.close();
  await directory[Symbol.asyncDispose]();
});

const asked = (...args: string[]) => convey(["-c", file, ...args], { env });
const address = () => ({ host: "127.0.0.1", port });

describe("drain, enable and weight", () => {
  test("a drained server gets nothing until it is enabled, and one that is waited for says how it ended", async () => {
    const clients = [await Client.open(address()), await Client.open(address())];
    expect(await asked("drain", "pool/s1")).toMatchObject({
      code: 0,
      stdout: "pool/s1: draining, 1 connection open\n",
      stderr: "",
    });
    const late = await asked("drain", "pool/s1", "--wait", "--deadline", "200ms");
    expect(late).toMatchObject({ code: 1, stdout: "pool/s1: draining, 1 connection still open\n" });
    for (const client of clients) client.close();
    expect(await asked("drain", "pool/s1", "--wait")).toMatchObject({
      code: 0,
      stdout: "pool/s1: drained\n",
    });
    for (let i = 0; i < 3; i++) {
      const client = await Client.open(address());
      expect(client.greeting).toBe("s2");
      client.close();
    }
    expect(await asked("enable", "pool/s1")).toMatchObject({ code: 0, stdout: "pool/s1: enabled\n" });
  });

  test("several at once: those that are wrong are named with what was meant, and the others are done", async () => {
    const { code, stdout, stderr } = await asked("drain", "pool/s2", "pool/s3");
    expect([code, stdout]).toEqual([1, "pool/s2: draining, 0 connections open\n"]);
    expect(stderr).toBe('convey: no server is named "pool/s3"; did you mean "pool/s1"?\n');
    const json = await asked("--json", "enable", "pool/s2", "pool/s3");
    expect([json.code, JSON.parse(json.stdout)]).toMatchObject([
      1,
      { servers: [{ name: "s2", draining: false }], errors: [{ server: "pool/s3", code: "NOT_FOUND" }] },
    ]);
  });

  test("a weight is set and taken back", async () => {
    expect(await asked("weight", "pool/s1", "0")).toMatchObject({ code: 0, stdout: "pool/s1: weight 0\n" });
    expect(await asked("weight", "pool/s1", "default")).toMatchObject({ stdout: "pool/s1: weight 1\n" });
  });

  test.each([
    ["a server without its backend", ["drain", "s1"], "Servers are named backend/server."],
    ["no server", ["drain"], "missing required argument 'server'"],
    ["a time without a unit", ["drain", "pool/s1", "--deadline", "30"], "Expected a time such as 500ms"],
    ["a weight that is none", ["weight", "pool/s1", "heavy"], "Expected a whole number"],
    ["both ends of a trial", ["reload", "--confirm", "1s", "--confirmed"], "were both given"],
    ["a mistyped command", ["dran", "pool/s1"], 'did you mean "drain"?'],
    ["half a flow", ["flows", "get", "tcp"], "takes one flow"],
  ])("%s is a usage error", async (_, args, text) => {
    const { code, stderr } = await asked(...args);
    expect([code, stderr]).toEqual([2, expect.stringContaining(text)]);
  });
});

describe("plan and reload", () => {
  test("a plan tells what would change and changes nothing; one that would be refused says why, with its place", async () => {
    const other = join(directory.path, "other.toml");
    await writeFile(other, toml(5));
    expect(await asked("plan", other)).toMatchObject({ code: 0, stdout: "weight pool/s2 1→5\n", stderr: "" });
    await writeFile(other, `nonsense = 1\n${toml(5)}`);
    const bad = await asked("plan", other);
    expect([bad.code, bad.stdout]).toEqual([1, "a reload would refuse this configuration\n"]);
    expect(bad.stderr).toContain("other.toml:1:1: error: nonsense: unknown key");
    const json = await asked("plan", other, "--json");
    expect([json.code, JSON.parse(json.stdout)]).toMatchObject([
      1,
      { ok: false, problems: [{ path: "nonsense", line: 1 }], changes: [] },
    ]);
    expect(await asked("plan")).toMatchObject({ code: 0, stdout: "nothing would change\n" });
  });

  test("a reload of the same file says so, and one of a wrong file tells every problem and loses nothing", async () => {
    expect(await asked("reload")).toMatchObject({ code: 0, stdout: "nothing has changed\n" });
    expect((await asked("reload", "--confirmed")).stderr).toBe(
      "convey: no reload waits for a confirmation\n",
    );
    const good = await readFile(file, "utf8");
    await writeFile(file, `one = 1\ntwo = 2\n${good}`);
    const { code, stderr } = await asked("reload");
    expect([code, stderr]).toEqual([1, expect.stringMatching(/:1:1: error: one: .*\n.*:2:1: error: two: /)]);
    const json = await asked("reload", "--json");
    expect(JSON.parse(json.stdout)).toMatchObject({ code: "CONFIG_INVALID", problems: [{}, {}] });
    await writeFile(file, good);
    expect((await asked("reload")).code).toBe(0);
    const client = await Client.open(address());
    expect(client.greeting).toMatch(/^s/);
    client.close();
  });

  test("a reload on trial is rolled back unless it is confirmed", async () => {
    await writeFile(file, toml(7));
    // Saving the file may have reloaded it by then: a trial over the same content is nothing to confirm.
    await expect
      .poll(
        async () =>
          JSON.parse((await asked("weight", "pool/s2", "default", "--json")).stdout).servers[0].weight,
      )
      .toBe(7);
    await writeFile(file, toml(1));
    const trial = await asked("reload", "--confirm", "1500ms", "--json");
    expect(trial.code).toBe(0);
    const { confirm_by } = JSON.parse(trial.stdout);
    if (confirm_by === undefined) return;
    await running.waitFor(/rolled back/);
    const shown = await asked("weight", "pool/s2", "default", "--json");
    expect(JSON.parse(shown.stdout).servers[0].weight).toBe(7);
  });
});

test("events are told as they happen, for people and as JSON, until the running one ends", async () => {
  const own = join(directory.path, "own.toml");
  await writeFile(own, toml());
  await using balancer = serving(["-c", own], env);
  await balancer.waitFor(/is ready/);
  await using people = serving(["events", "-c", own], env);
  await using programs = serving(["events", "--json", "-c", own], env);
  const drained = async () => {
    await convey(["drain", "pool/s1", "-c", own], { env });
    return people.stdout.includes("drained") && programs.stdout.includes('"drained"');
  };
  await expect.poll(drained, { timeout: 20_000 }).toBe(true);
  expect(people.stdout).toMatch(/^\d\d:\d\d:\d\d drain of pool\/s1: started$/m);
  const [line] = programs.stdout.split("\n");
  expect(JSON.parse(line ?? "")).toMatchObject({ type: "drain", server: "s1", at: expect.any(String) });
  balancer.child.kill("SIGTERM");
  await people.waitFor(/the running one has ended/);
});

test("flows are listed, shown and killed", async () => {
  const client = await Client.open(address());
  const from = `127.0.0.1:${client.socket.localPort}`;
  const to = `127.0.0.1:${port}`;
  const list = await asked("flows", "ls", "--client", from);
  expect([list.code, list.stdout]).toEqual([
    0,
    expect.stringMatching(/^PROTO +CLIENT[^\n]*\ntcp +127[^\n]*pool\/s\d/),
  ]);
  const json = await asked("flows", "ls", "--json", "--client", from);
  expect(JSON.parse(json.stdout)).toMatchObject({
    flows: [{ protocol: "tcp", client: from, vip: to }],
    cursor: null,
  });
  expect((await asked("flows", "get", "tcp", from, to)).stdout).toMatch(/^state: +established$/m);
  expect(await asked("flows", "kill", "tcp", from, to)).toMatchObject({
    code: 0,
    stdout: "1 flow has ended\n",
  });
  await expect.poll(() => client.ended).toBe(true);
  expect(await asked("flows", "get", "tcp", from, to)).toMatchObject({ code: 1, stdout: "" });
  const wrong = await asked("flows", "ls", "--state", "dead");
  expect([wrong.code, wrong.stderr]).toEqual([1, expect.stringContaining("query.state")]);
});

test("where the HTTP server refuses a change in the socket's place, the error names both", async () => {
  const own = join(directory.path, "http.toml");
  await writeFile(own, `${toml()}[stats]\nport = 0\n`);
  await using one = serving(["-c", own], env);
  const [, url = ""] = await one.waitFor(/statistics on (http:[^ "]+)\/stats/);
  await one.waitFor(/is ready/);
  const elsewhere = { ...env, CONVEY_STATE_DIR: join(directory.path, "none") };
  await writeFile(own, `${toml()}[stats]\nport = ${new URL(url).port}\n[reload]\nwatch = false\n`);
  const { code, stderr } = await convey(["drain", "-c", own, "pool/s1"], { env: elsewhere });
  expect(code).toBe(1);
  expect(stderr).toContain("this server has no token, so it takes no changes (");
  expect(stderr).toContain(`${url}/api/v1/servers`);
  expect(stderr).toMatch(/asked because of the socket: no socket http-\w+\.sock in /);
});

test("where nothing runs, the error names every way that was tried", async () => {
  const nobody = join(directory.path, "nobody.toml");
  const { code, stderr } = await convey(["drain", "pool/s1", "-c", nobody], { env });
  expect([code, stderr]).toEqual([
    1,
    expect.stringMatching(/cannot ask the running convey: no socket nobody-/),
  ]);
  const json = await convey(["events", "--json", "-c", nobody], { env });
  expect([json.code, JSON.parse(json.stdout).code]).toEqual([1, "UNREACHABLE"]);
});
