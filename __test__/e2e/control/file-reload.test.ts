import { chmod, mkdir, mkdtemp, rename, rm, unlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { type Balancer, type BalancerEvent, createBalancer, type ReloadEvent } from "../../../ts/index.ts";
import { ask, Client, echoServer, type TestServer } from "../../support/control.ts";

let directory: string;
let a: TestServer;
let b: TestServer;
let lb: Balancer;
let events: BalancerEvent[];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "convey-reload-"));
  [a, b] = [await echoServer("a"), await echoServer("b")];
});

afterEach(async () => {
  await lb.close();
  await Promise.all([a.close(), b.close()]);
  await rm(directory, { recursive: true });
});

const file = (): string => join(directory, "config.toml");

function toml(servers: Record<string, TestServer>, more = ""): string {
  const tables = Object.entries(servers).map(
    ([name, { addr }]) => `[backends.pool.servers.${name}]\naddr = "${addr}"\n`,
  );
  return `${more}
[frontends.web]
listen_addr = "127.0.0.1:0"
backend = "pool"
[stats]
port = 0
[backends.pool]
health_check_interval = 1
${tables.join("")}`;
}

async function start(content: string): Promise<void> {
  await writeFile(file(), content, { mode: 0o644 });
  await run();
}

async function run(): Promise<void> {
  lb = await createBalancer({ configFile: file() });
  events = [];
  const stream = lb.events();
  void (async () => {
    for await (const event of stream) events.push(event);
  })();
}

const reloads = (): ReloadEvent[] => events.filter((e) => e.type === "reload");
const results = (): string[] => reloads().map((e) => e.result);

/** Waits for exactly these reloads so far, then makes sure that no more follow. */
async function settlesOn(expected: string[], timeout = 4000): Promise<void> {
  await vi.waitFor(() => expect(results()).toEqual(expected), { timeout, interval: 20 });
  await sleep(400);
  expect(results()).toEqual(expected);
}

/** Who answers a connection. */
async function answer(): Promise<string> {
  const client = await Client.open(lb.address("web"));
  client.close();
  return client.greeting;
}

async function replace(content: string): Promise<void> {
  await writeFile(join(directory, "config.toml.new"), content, { mode: 0o644 });
  await rename(join(directory, "config.toml.new"), file());
}

test("a file renamed over the old one is in service at once, and open connections stay", async () => {
  await start(toml({ s: a }));
  const client = await Client.open(lb.address("web"));
  await replace(toml({ s: b }));
  await settlesOn(["applied"]);
  expect(await answer()).toBe("b");
  expect(await client.echo("still on a")).toBe("still on a");
  client.close();
});

test("invalid, empty and removed: one error each, the last good one serves, and the next good one is taken", async () => {
  await start(toml({ s: a }));
  await writeFile(file(), toml({ s: b }).replace('backend = "pool"', 'backend = "pol"'));
  await settlesOn(["rejected"]);
  expect(reloads()[0]?.message).toMatch(/config\.toml:\d+:\d+: error: frontends\.web\.backend: .*pool/);
  expect(await answer()).toBe("a");
  await writeFile(file(), "");
  await settlesOn(["rejected", "rejected"]);
  await unlink(file());
  await settlesOn(["rejected", "rejected", "rejected"]);
  expect(reloads()[2]?.message).toContain("is gone");
  expect(await answer()).toBe("a");
  const stats = JSON.parse((await ask(lb.statsAddress as { host: string; port: number }, "/stats")).body);
  expect(stats).toMatchObject({
    config_version: 1,
    last_reload: { result: "rejected", source: "file", message: expect.stringContaining("is gone") },
  });
  await writeFile(file(), toml({ s: b }), { mode: 0o644 });
  await settlesOn(["rejected", "rejected", "rejected", "applied"]);
  expect(await answer()).toBe("b");
});

test("a file that is half written for a while is one error, completed it is taken", async () => {
  await start(toml({ s: a }));
  const content = toml({ s: b });
  await writeFile(file(), content.slice(0, content.indexOf("backend =") + 4));
  await settlesOn(["rejected"]);
  expect(await answer()).toBe("a");
  await writeFile(file(), content);
  await settlesOn(["rejected", "applied"]);
  expect(await answer()).toBe("b");
});

test("a file written in pieces without a pause is read once, whole", async () => {
  await start(toml({ s: a }));
  const content = toml({ s: b });
  for (let end = 0; end < content.length; end += 40) {
    await writeFile(file(), content.slice(0, end));
    await sleep(20);
  }
  await writeFile(file(), content);
  await settlesOn(["applied"]);
});

test("the same content again does nothing at all; comments alone change nothing", async () => {
  const content = toml({ s: a });
  await start(content);
  await replace(content);
  await settlesOn([]);
  await replace(`# a comment\n${content}`);
  await settlesOn(["unchanged"]);
  expect(lb.stats().config_version).toBe(1);
});

test("the same content saved again after a refusal is tried again, and taken once the reason is gone", async () => {
  await start(toml({ s: a }));
  const occupier = await echoServer("occupier");
  const wanted = toml({ s: a }).replace("127.0.0.1:0", `127.0.0.1:${occupier.port}`);
  await replace(wanted);
  await settlesOn(["rejected"]);
  await replace(wanted);
  await settlesOn(["rejected", "rejected"]);
  await occupier.close();
  await writeFile(file(), wanted);
  await settlesOn(["rejected", "rejected", "applied"]);
  expect(lb.address("web").port).toBe(occupier.port);
});

test("a reload tells what it changed, in words and as data", async () => {
  await start(toml({ s: a }));
  await replace(toml({ s: a, t: b }, "[limits]\nmax_connections = 100\n"));
  await settlesOn(["applied"]);
  expect(reloads()[0]).toMatchObject({
    message: "the new configuration is in service: +1 server pool/t, limits.max_connections 0→100",
    changes: [
      { kind: "added", what: "server", name: "pool/t" },
      { kind: "changed", path: "limits.max_connections", from: 0, to: 100 },
    ],
    config_version: 2,
  });
});

test("a directory or unreadable bytes in its place are errors that end with the next good file", async () => {
  await start(toml({ s: a }));
  await unlink(file());
  await mkdir(file());
  await settlesOn(["rejected"]);
  await rm(file(), { recursive: true });
  await writeFile(file(), Buffer.from([0x61, 0xff, 0xfe, 0x00]));
  await vi.waitFor(() => expect(results().at(-1)).toBe("rejected"), { timeout: 4000 });
  await replace(toml({ s: b }));
  await vi.waitFor(() => expect(results().at(-1)).toBe("applied"), { timeout: 4000 });
  expect(await answer()).toBe("b");
});

test("a file that others can write is taken with a warning", async () => {
  await start(toml({ s: a }));
  await writeFile(file(), toml({ s: b }));
  await chmod(file(), 0o666);
  await settlesOn(["applied"]);
  expect((await lb.reload()).warnings).toMatchObject([{ severity: "warning" }]);
});

test("fifty reloads a second cost a few reads, and the last content is what serves", async () => {
  await start(toml({ s: a }));
  for (let i = 0; i < 100; i++) {
    await replace(toml({ s: i % 2 === 0 ? a : b }, `# ${i}`));
    await sleep(20);
  }
  await vi.waitFor(async () => expect(await answer()).toBe("b"), { timeout: 4000 });
  expect(results().length).toBeLessThan(20);
  const before = results().length;
  await Promise.all(Array.from({ length: 50 }, () => lb.reload()));
  expect(results().length - before).toBeLessThanOrEqual(2);
});

test("an update from the program lasts until the file changes or reload() is called", async () => {
  await start(toml({ s: a }));
  const { result } = await lb.update({
    frontends: { web: { listen_addr: "127.0.0.1:0", backend: "pool" } },
    backends: { pool: { servers: { s: { addr: b.addr } } } },
    stats: { port: 0 },
  });
  expect([result, await answer()]).toEqual(["applied", "b"]);
  expect((await lb.reload()).result).toBe("applied");
  expect(await answer()).toBe("a");
});

test("connections opened one after another through 30 reloads all succeed", async () => {
  await start(toml({ s1: a, s2: b }));
  let open = true;
  const failures: string[] = [];
  let opened = 0;
  const traffic = (async () => {
    while (open) {
      const client = await Client.open(lb.address("web"));
      if (client.greeting === "" || (await client.echo("x")) !== "x") failures.push(client.greeting);
      client.close();
      opened += 1;
    }
  })();
  for (let i = 0; i < 30; i++) {
    await writeFile(file(), toml(i % 2 === 0 ? { s1: a } : { s1: a, s2: b }), { mode: 0o644 });
    // The watch may have been first.
    expect(["applied", "unchanged"]).toContain((await lb.reload()).result);
    await sleep(20);
  }
  expect(results().filter((result) => result === "applied")).toHaveLength(30);
  open = false;
  await traffic;
  expect(failures).toEqual([]);
  expect(opened).toBeGreaterThan(50);
});

test("without a file reload() says that there is none", async () => {
  lb = await createBalancer({
    frontends: { web: { listen_addr: "127.0.0.1:0", backend: "pool" } },
    backends: { pool: { servers: { s: { addr: a.addr } } } },
  });
  await expect(lb.reload()).rejects.toMatchObject({ code: "NOT_FOUND" });
});

test("with watch off the file is left alone until reload() is called", async () => {
  await writeFile(file(), toml({ s: a }), { mode: 0o644 });
  lb = await createBalancer({ configFile: file() }, { watch: false });
  await writeFile(file(), toml({ s: b }));
  await sleep(500);
  expect(await answer()).toBe("a");
  await lb.reload();
  expect(await answer()).toBe("b");
});

test("a missing file at the start is an error that names it", async () => {
  await start(toml({ s: a }));
  await expect(createBalancer({ configFile: join(directory, "none.toml") })).rejects.toMatchObject({
    code: "CONFIG_INVALID",
    message: expect.stringContaining("none.toml"),
  });
});
