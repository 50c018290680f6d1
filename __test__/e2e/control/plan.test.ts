/** What a reload would change, told before it does. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { createBalancer, describePlan } from "../../../ts/index.ts";
import { loadDataplane } from "../../../ts/native/index.ts";
import { Client, collect, echoServer, poolConfig } from "../../support/control.ts";

test("a plan tells what would change and whose connections it touches, and changes nothing", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using c = await echoServer("c");
  const config = poolConfig({ a: { addr: a.addr, weight: 2 }, b: { addr: b.addr } });
  await using lb = await createBalancer(config);
  const seen = collect(lb);
  const clients = [await Client.open(lb.address("web")), await Client.open(lb.address("web"))];
  const [open] = clients.filter(({ greeting }) => greeting === "b").length === 1 ? [1] : [0];
  const next = poolConfig({ a: { addr: a.addr, weight: 3 }, c: { addr: c.addr } }, { proxy: { workers: 1 } });
  const plan = await lb.plan(next);
  expect(plan).toEqual({
    ok: true,
    problems: [],
    changes: [
      { kind: "added", what: "server", name: "pool/c" },
      { kind: "removed", what: "server", name: "pool/b" },
      { kind: "changed", path: "backends.pool.servers.a.weight", server: "pool/a", from: 2, to: 3 },
      { kind: "changed", path: "proxy.workers", from: 2, to: 1 },
    ],
    restart_needed: [expect.objectContaining({ path: "proxy.workers", severity: "warning" })],
    slots: [],
    frontends: [],
    servers: [{ name: "pool/b", address: b.addr, change: "removed", current_connections: open }],
    partial: null,
  });
  expect(describePlan(plan)).toEqual([
    "+ server pool/c",
    "− server pool/b",
    "weight pool/a 2→3",
    "proxy.workers 2→1",
    "proxy.workers takes effect at the next start",
    `server pool/b (${b.addr}) goes: ${open === 1 ? "1 open connection; they go on" : "0 open connections"}`,
  ]);
  expect([lb.config.backends.pool?.servers, lb.stats().config_version, seen]).toMatchObject([
    { b: {} },
    1,
    [],
  ]);
  const applied = await lb.update(next);
  expect(applied.changes).toEqual(plan.changes);
  for (const client of clients) client.close();
});

test("the text of a file is judged with the overrides of the running one; what is wrong has its line", async () => {
  await using a = await echoServer("a");
  const toml = (weight: number | string) =>
    [
      "[frontends.web]",
      'listen_addr = "127.0.0.1:0"',
      'backend = "pool"',
      "[backends.pool]",
      "health_check_interval = 1",
      "[backends.pool.servers]",
      `a = { addr = "${a.addr}", weight = ${weight} }`,
    ].join("\n");
  const directory = await mkdtemp(join(tmpdir(), "convey-plan-"));
  const file = join(directory, "web.toml");
  await writeFile(file, toml(1), { mode: 0o600 });
  const overrides = [{ path: ["log", "level"], value: "debug", origin: "test" }];
  await using lb = await createBalancer.fromFile(file, { watch: false, overrides });
  expect(await lb.plan({ configFile: file })).toMatchObject({ ok: true, changes: [] });
  expect(describePlan(await lb.plan({ toml: toml(1) }))).toEqual(["nothing would change"]);
  expect((await lb.plan({ toml: toml(2) })).changes).toMatchObject([{ server: "pool/a", from: 1, to: 2 }]);
  const wrong = await lb.plan({ toml: toml(70_000), file: "next.toml" });
  expect(wrong).toMatchObject({
    ok: false,
    changes: [],
    problems: [{ file: "next.toml", line: 7, path: "backends.pool.servers.a.weight" }],
  });
  expect(describePlan(wrong)).toEqual([
    expect.stringContaining("backends.pool.servers.a.weight: is out of range"),
    "a reload would refuse this configuration",
  ]);
  const missing = await lb.plan({ configFile: join(directory, "none.toml") });
  expect(missing).toMatchObject({ ok: false, problems: [{ message: "no such file" }] });
  const dsr = await lb.plan({ toml: `mode = "dsr"\n${toml(1).replaceAll("127.0.0.1:0", "192.0.2.1:80")}` });
  expect(dsr).toMatchObject({ ok: false });
  await rm(directory, { recursive: true });
});

test("a plan counts servers of the run time in, by the rule that a reload goes by", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  const config = poolConfig({ a: { addr: a.addr } });
  await using lb = await createBalancer(config);
  await lb.addServer("pool", { name: "b", addr: b.addr });
  expect((await lb.plan(config)).changes).toEqual([]);
  const named = poolConfig({ a: { addr: a.addr }, b: { addr: b.addr, weight: 4 } });
  const plan = await lb.plan(named);
  expect(plan.changes).toMatchObject([{ server: "pool/b", from: 1, to: 4 }]);
  expect((await lb.update(named)).changes).toEqual(plan.changes);
});

test("what only a restart takes up is compared with how it was started, not with the latest reload", async () => {
  const workers = (n: number) => poolConfig({}, { proxy: { workers: n } });
  await using lb = await createBalancer(workers(2));
  expect((await lb.update(workers(1))).warnings).toContainEqual(
    expect.objectContaining({ path: "proxy.workers", found: "1", expected: "2 until then" }),
  );
  const other = { ...workers(1), limits: { max_connections: 9 } };
  expect((await lb.plan(other)).restart_needed).toHaveLength(1);
  expect((await lb.plan(workers(2))).restart_needed).toEqual([]);
  expect((await lb.update(workers(2))).warnings.filter(({ path }) => path === "proxy.workers")).toEqual([]);
});

test("frontends that go or move are told with their connections", async () => {
  await using a = await echoServer("a");
  const config = poolConfig({ a: { addr: a.addr } });
  const frontends = { ...config.frontends, extra: { listen_addr: "127.0.0.1:0", backend: "pool" } };
  await using lb = await createBalancer({ ...config, frontends });
  const client = await Client.open(lb.address("extra"));
  const plan = await lb.plan({
    ...config,
    frontends: { web: { listen_addr: "127.0.0.2:0", backend: "pool" } },
  });
  expect(plan.frontends).toEqual([
    { name: "web", address: "127.0.0.1:0", change: "moved", current_connections: 0 },
    { name: "extra", address: "127.0.0.1:0", change: "removed", current_connections: 1 },
  ]);
  client.close();
});

test("the share of a Maglev table that moves is counted by the code that builds it", async () => {
  const { movedSlots } = await loadDataplane();
  const servers = Array.from({ length: 4 }, (_, n) => ({
    addr: `10.0.0.${n + 1}:80`,
    weight: 1,
    backup: false,
  }));
  expect(await movedSlots(servers, [...servers].reverse())).toEqual({ moved: 0, slots: 65_537 });
  const { moved, slots } = await movedSlots(servers, servers.slice(1));
  expect(moved / slots).toBeGreaterThan(0.25);
  expect(moved / slots).toBeLessThan(0.35);
  await expect(movedSlots([{ addr: "nonsense", weight: 1, backup: false }], [])).rejects.toMatchObject({
    code: "CONFIG_INVALID",
  });
});
