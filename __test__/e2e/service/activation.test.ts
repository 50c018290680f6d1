import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ask, echoServer, type TestServer } from "../../support/control.ts";
import { type Running, start, until } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import { exchange, folder, ROOT } from "../cli/convey.ts";

let server: TestServer;
let home: Awaited<ReturnType<typeof folder>>;

beforeEach(async () => {
  server = await echoServer("s1");
  home = await folder();
});

afterEach(async () => {
  await server.close();
  await home[Symbol.asyncDispose]();
});

/** Ports that are free now. */
async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from(
      { length: count },
      () =>
        new Promise<ReturnType<typeof createServer>>((resolve) => {
          const it = createServer().listen(0, "127.0.0.1", () => resolve(it));
        }),
    ),
  );
  const ports = servers.map((it) => (it.address() as { port: number }).port);
  await Promise.all(servers.map((it) => new Promise((resolve) => it.close(resolve))));
  return ports;
}

/** Listens at `addresses` as systemd would, and starts the balancer with the first connection. */
function activated(addresses: readonly string[], names: readonly string[], file: string): Running {
  return start(
    [
      "systemd-socket-activate",
      ...addresses.map((address) => `--listen=${address}`),
      `--fdname=${names.join(":")}`,
      `--setenv=CONVEY_STATE_DIR=${home.path}`,
      process.execPath,
      join(ROOT, "dist", "cli", "main.js"),
      "-c",
      file,
    ],
    { env: { ...process.env, CONVEY_STATE_DIR: home.path } },
  );
}

async function configurationOf(web: string, stats: number): Promise<string> {
  const file = join(home.path, "config.toml");
  await writeFile(
    file,
    `[frontends.web]
listen_addr = "${web}"
backend = "pool"
[backends.pool.servers]
s1 = { addr = "127.0.0.1:${server.port}" }
[proxy]
workers = 2
[stats]
port = ${stats}
`,
  );
  return file;
}

test("sockets that systemd opened serve the frontend and the statistics of their address; others are told", async (context) => {
  needs(context, { tools: ["systemd-socket-activate"] });
  const [web = 0, stats = 0, other = 0] = await freePorts(3);
  const file = await configurationOf(`127.0.0.1:${web}`, stats);
  await using running = activated(
    [`127.0.0.1:${web}`, `127.0.0.1:${stats}`, `127.0.0.1:${other}`, join(home.path, "unix")],
    ["web", "stats", "other", "unix"],
    file,
  );
  await running.waitFor(/Listening on .*unix/);
  // The client that wakes it up is served.
  expect(await exchange(web, "hello\n")).toBe("s1\nhello\n");
  await running.waitFor(/is ready/);
  expect((await ask({ host: "127.0.0.1", port: stats }, "/healthz")).status).toBe(200);
  await running.waitFor(/descriptor 6 .*\(unix\) is not used: it is no TCP socket/);
  expect(running.stderr).toContain(
    `descriptor 3 of the service manager (web) is the socket of 127.0.0.1:${web}`,
  );
  expect(running.stderr).toContain(
    `descriptor 4 of the service manager (stats) is the socket of 127.0.0.1:${stats}`,
  );
  expect(running.stderr).toContain(
    `descriptor 5 of the service manager (other) is not used: it listens on 127.0.0.1:${other}`,
  );
  for (let i = 0; i < 20; i++) expect(await exchange(web, `${i}\n`)).toBe(`s1\n${i}\n`);
});

test("a reload leaves the socket and takes it again, and clients in between wait instead of being refused", async (context) => {
  needs(context, { tools: ["systemd-socket-activate"] });
  const [web = 0, elsewhere = 0, stats = 0] = await freePorts(3);
  const file = await configurationOf(`127.0.0.1:${web}`, stats);
  await using running = activated([`127.0.0.1:${web}`], ["web"], file);
  await running.waitFor(/Listening on/);
  expect(await exchange(web, "1\n")).toBe("s1\n1\n");
  await running.waitFor(/is ready/);
  await configurationOf(`127.0.0.1:${elsewhere}`, stats);
  await until(() => /reload: the new configuration is in service/.test(running.stderr), "the first reload");
  expect(await exchange(elsewhere, "2\n")).toBe("s1\n2\n");
  const waiting = exchange(web, "3\n");
  await configurationOf(`127.0.0.1:${web}`, stats);
  expect(await waiting).toBe("s1\n3\n");
});

test("of a frontend's addresses those that systemd opened are served by its sockets, the others by our own", async (context) => {
  needs(context, { tools: ["systemd-socket-activate"] });
  const [web = 0, second = 0, stats = 0] = await freePorts(3);
  const file = await configurationOf(`127.0.0.1:${web}`, stats);
  const own = `listen = ["127.0.0.1:${web}", "127.0.0.1:${second}"]`;
  await writeFile(file, (await readFile(file, "utf8")).replace(/listen_addr = .*/, own));
  await using running = activated([`127.0.0.1:${second}`], ["second"], file);
  await running.waitFor(/Listening on/);
  expect(await exchange(second, "1\n")).toBe("s1\n1\n");
  await running.waitFor(/is ready/);
  expect(running.stderr).toContain(`(second) is the socket of 127.0.0.1:${second}`);
  expect(await exchange(web, "2\n")).toBe("s1\n2\n");
});

test("descriptors meant for another process are left alone", async () => {
  const [web = 0, stats = 0] = await freePorts(2);
  const file = await configurationOf(`127.0.0.1:${web}`, stats);
  await using running = start([process.execPath, join(ROOT, "dist", "cli", "main.js"), "-c", file], {
    env: { ...process.env, LISTEN_FDS: "1", LISTEN_PID: "1", CONVEY_STATE_DIR: home.path },
  });
  await running.waitFor(/is ready/);
  expect(running.stderr).not.toContain("service manager");
  expect(await exchange(web, "1\n")).toBe("s1\n1\n");
});
