/** Several listening addresses, values from the environment and included files, by the command line. */

import { mkdir, rename, unlink, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { createServer as createTcp } from "node:net";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { Stats } from "../../../ts/index.ts";
import { finish, until } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import { convey, folder, serving } from "./convey.ts";

/** A web server that answers with its name. */
async function web(name: string): Promise<AsyncDisposable & { addr: string }> {
  const server = createServer((_, response) => response.end(name)).listen(0, "127.0.0.1");
  await new Promise((done) => server.once("listening", done));
  const { port } = server.address() as AddressInfo;
  return {
    addr: `127.0.0.1:${port}`,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** The first of so many ports of loopback that follow each other and are free, as far as anybody can tell. */
async function freeRange(count: number): Promise<number> {
  for (let from = 21_000 + (process.pid % 1000) * 8; ; from += count) {
    const held = Array.from({ length: count }, (_, n) => createTcp().listen(from + n, "127.0.0.1"));
    const free = await Promise.all(
      held.map(
        (one) =>
          new Promise<boolean>((done) => {
            one.once("listening", () => done(true));
            one.once("error", () => done(false));
          }),
      ),
    );
    await Promise.all(held.map((one) => new Promise((done) => one.close(done))));
    if (free.every((is) => is)) return from;
  }
}

async function curl(url: string): Promise<string> {
  const { stdout, code } = await finish(["curl", "-s", "--max-time", "5", url]);
  return code === 0 ? stdout : `curl ${code}`;
}

test("a frontend on two families and a range of ports serves all of them, and a reload moves single ones", async (context) => {
  needs(context, { tools: ["curl"] });
  await using directory = await folder();
  await using server = await web("served");
  const from = await freeRange(4);
  const file = join(directory.path, "web.toml");
  const toml = (listen: string) =>
    `[frontends.web]\nlisten = ${listen}\nbackend = "pool"\n[backends.pool.servers.s]\naddr = "${server.addr}"\n[stats]\nport = 0\n`;
  await writeFile(file, toml(`["127.0.0.1:${from}-${from + 2}", "[::1]:0"]`), { mode: 0o600 });
  await using running = serving(["-c", file], {
    ...process.env,
    CONVEY_STATE_DIR: join(directory.path, "s"),
  });
  await running.waitFor(/is ready/);
  const stats = async (): Promise<Stats> => {
    const { stdout } = await convey(["stats", "-c", file, "--json"], {
      env: { ...process.env, CONVEY_STATE_DIR: join(directory.path, "s") },
    });
    return JSON.parse(stdout) as Stats;
  };
  const { address } = (await stats()).frontends.web ?? { address: "" };
  const six = /^127\.0\.0\.1:\d+-\d+, (\[::1\]:\d+)$/.exec(address)?.[1];
  expect(address).toBe(`127.0.0.1:${from}-${from + 2}, ${six}`);
  for (const port of [from, from + 1, from + 2])
    expect(await curl(`http://127.0.0.1:${port}/`)).toBe("served");
  expect(await curl(`http://${six}/`)).toBe("served");
  expect(await curl(`http://127.0.0.1:${from + 3}/`)).toBe("curl 7");
  await writeFile(file, toml(`["127.0.0.1:${from + 1}-${from + 3}", "[::1]:0"]`));
  await until(
    async () => (await curl(`http://127.0.0.1:${from + 3}/`)) === "served",
    "the port that came",
    20_000,
  );
  expect(await curl(`http://127.0.0.1:${from}/`)).toBe("curl 7");
  expect(await curl(`http://${six}/`)).toBe("served");
  const after = (await stats()).frontends.web;
  expect(after?.address).toBe(`127.0.0.1:${from + 1}-${from + 3}, ${six}`);
  expect(after?.total_connections).toBe(6);
});

test("included files are read again as they change, come and go, and the environment is that of the process", async (context) => {
  needs(context, { tools: ["curl"] });
  await using directory = await folder();
  await using a = await web("a");
  await using b = await web("b");
  const port = await freeRange(2);
  const file = join(directory.path, "main.toml");
  const more = join(directory.path, "conf.d");
  await mkdir(more);
  await writeFile(
    file,
    `include = ["conf.d/*.toml"]\n[frontends.web]\nlisten = "127.0.0.1:\${WEB_PORT}"\nbackend = "pool"\n`,
    { mode: 0o600 },
  );
  const pool = (addr: string) => `[backends.pool.servers.s]\naddr = "${addr}"\nweight = "\${WEIGHT:-1}"\n`;
  await writeFile(join(more, "pool.toml"), pool(a.addr), { mode: 0o600 });
  const env = { ...process.env, CONVEY_STATE_DIR: join(directory.path, "s"), WEB_PORT: String(port) };
  await using running = serving(["-c", file], env);
  await running.waitFor(/is ready/);
  expect(await curl(`http://127.0.0.1:${port}/`)).toBe("a");
  // Renamed over, as editors and package managers do.
  await writeFile(join(more, "pool.new"), pool(b.addr), { mode: 0o600 });
  await rename(join(more, "pool.new"), join(more, "pool.toml"));
  await until(async () => (await curl(`http://127.0.0.1:${port}/`)) === "b", "the changed file", 20_000);
  await writeFile(
    join(more, "second.toml"),
    `[frontends.second]\nlisten = "127.0.0.1:${port + 1}"\nbackend = "pool"\n`,
    { mode: 0o600 },
  );
  await until(
    async () => (await curl(`http://127.0.0.1:${port + 1}/`)) === "b",
    "the file that came",
    20_000,
  );
  await unlink(join(more, "second.toml"));
  await until(
    async () => (await curl(`http://127.0.0.1:${port + 1}/`)) === "curl 7",
    "the one that went",
    20_000,
  );
  // One that is broken leaves what serves as it is.
  await writeFile(join(more, "second.toml"), "[frontends.web]\n", { mode: 0o600 });
  await running.waitFor(/second\.toml:1:12: .*this frontend is in .*main\.toml:2:12 too/);
  expect(await curl(`http://127.0.0.1:${port}/`)).toBe("b");
  const plan = await convey(["plan", file, "-c", file, "--json"], { env });
  expect(plan.stderr + plan.stdout).toContain("this frontend is in");
  await unlink(join(more, "second.toml"));
  await writeFile(join(more, "pool.toml"), pool(a.addr));
  await until(async () => (await curl(`http://127.0.0.1:${port}/`)) === "a", "the mended one", 20_000);
  const changed = join(directory.path, "changed.toml");
  await writeFile(
    changed,
    `include = "conf.d/pool.toml"\n[frontends.web]\nlisten = "127.0.0.1:\${WEB_PORT}"\nbackend = "pool"\n[backends.pool]\nretries = 7\n`,
    { mode: 0o600 },
  );
  const planned = await convey(["plan", changed, "-c", file], { env: { ...env, WEB_PORT: "1" } });
  expect(planned.stdout + planned.stderr).toContain("backends.pool.retries 2→7");
  expect(planned.stdout).not.toContain("frontends.web");
});

test("a variable that is not set is told by the commands with its place, and one that is makes a number", async () => {
  await using directory = await folder();
  const file = join(directory.path, "web.toml");
  await writeFile(
    file,
    `[frontends.web]\nlisten = ["127.0.0.1:0", ":\${PORT}"]\nbackend = "pool"\n[backends.pool]\nretries = "\${RETRIES}"\nservers = {}\n`,
    { mode: 0o600 },
  );
  for (const command of [
    ["validate", file],
    ["config", file],
    ["--dry-run", "-c", file],
  ]) {
    const { code, stderr, stdout } = await convey(command, { env: { ...process.env, RETRIES: "3" } });
    expect(code).toBe(1);
    expect(stderr + stdout).toContain(
      `web.toml:2:26: error: frontends.web.listen.1: needs the environment variable PORT, which is not set`,
    );
  }
  const { code, stdout } = await convey(["config", file], {
    env: { ...process.env, PORT: "0", RETRIES: "3" },
  });
  expect(code).toBe(0);
  expect(stdout).toContain("retries = 3");
});

test("what the data plane refuses of an address is told by the key that was written", async (context) => {
  needs(context, { root: true, tools: ["unshare"] });
  await using directory = await folder();
  const file = join(directory.path, "config.toml");
  const main = join(import.meta.dirname, "../../../dist/cli/main.js");
  for (const [key, value] of Object.entries({ listen: '[":80"]', listen_addr: '":80"' })) {
    await writeFile(
      file,
      `mode = "passthrough"\n[frontends.web]\n${key} = ${value}\nbackend = "pool"\n[backends.pool.servers.s1]\naddr = "10.0.0.1:80"\n`,
    );
    const command = [process.execPath, main, "explain", "-c", file, "tcp", "10.0.0.9:1", "10.0.0.2:80"];
    const { stderr } = await finish(["unshare", "-n", ...command]);
    expect(stderr).toContain(`frontends.web.${key}: 0.0.0.0:80 stands for every IPv4 address`);
  }
});
