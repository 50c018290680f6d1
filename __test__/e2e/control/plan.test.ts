/** What a reload would change, told before it does. */
import { expect, test } from "vitest";
import { createBalancer, describePlan } from "../../../ts/index.ts";
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
