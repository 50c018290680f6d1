/** A reload as a trial: confirmed, rolled back, and what happens in between. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { type Balancer, type BalancerOptions, createBalancer, type ReloadEvent } from "../../../ts/index.ts";
import { answers, Client, collect, echoServer, serverStats, type TestServer } from "../../support/control.ts";

type Servers = Record<string, TestServer | { addr: string; weight: number }>;

/** A balancer from a file that `write()` rewrites; `await using` closes and removes both. */
async function fromFile(servers: Servers, options: BalancerOptions = { watch: false }) {
  const directory = await mkdtemp(join(tmpdir(), "convey-confirm-"));
  const file = join(directory, "config.toml");
  const write = (next: Servers, more = ""): Promise<void> =>
    writeFile(
      file,
      [
        '[frontends.web]\nlisten_addr = "127.0.0.1:0"\nbackend = "pool"',
        more,
        "[backends.pool]\nhealth_check_interval = 1\n[backends.pool.servers]",
        ...Object.entries(next).map(([name, it]) => {
          const weight = "weight" in it ? `, weight = ${it.weight}` : "";
          return `${name} = { addr = "${it.addr}"${weight} }`;
        }),
      ].join("\n"),
    );
  await write(servers);
  const lb = await createBalancer({ configFile: file }, options);
  const seen = collect(lb);
  return {
    lb,
    file,
    write,
    seen,
    reloads: () => seen.filter((e): e is ReloadEvent => e.type === "reload").map(({ result }) => result),
    [Symbol.asyncDispose]: async () => {
      await lb.close();
      await rm(directory, { recursive: true });
    },
  };
}

const rolledBack = (lb: Balancer): Promise<void> =>
  vi.waitFor(() => expect(lb.stats().last_reload?.result).toBe("rolled_back"), { timeout: 10_000 });

test("a trial that nobody confirms ends: what served before serves again, connections go on", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using it = await fromFile({ a });
  const { lb } = it;
  const client = await Client.open(lb.address("web"));
  await it.write({ b });
  const startedAt = Date.now();
  const applied = await lb.reload({ confirmMs: 700 });
  expect(applied).toMatchObject({
    result: "applied",
    message: expect.stringMatching(
      /\+1 server pool\/b, −1 server pool\/a; rolls back at .* unless it is confirmed/,
    ),
    changes: [{ kind: "added" }, { kind: "removed" }],
  });
  const by = Date.parse(applied.confirm_by ?? "");
  expect(by - startedAt).toBeGreaterThanOrEqual(700);
  expect(lb.stats().last_reload).toMatchObject({ result: "applied", confirm_by: applied.confirm_by });
  expect(await answers(lb, 2)).toEqual({ b: 2 });
  await rolledBack(lb);
  expect(Date.now()).toBeGreaterThanOrEqual(by - 5);
  expect(await answers(lb, 2)).toEqual({ a: 2 });
  expect(await client.echo("on")).toBe("on");
  client.close();
  const last = lb.stats().last_reload;
  expect(last).toMatchObject({
    file_differs: true,
    message: expect.stringContaining("not what the file says"),
  });
  expect(last).not.toHaveProperty("confirm_by");
  expect(it.reloads()).toEqual(["applied", "rolled_back"]);
  expect(it.seen.at(-1)).toMatchObject({
    changes: [{ name: "pool/a" }, { name: "pool/b" }],
    config_version: 3,
  });
  await expect(lb.confirmReload()).rejects.toMatchObject({
    code: "NOT_FOUND",
    message: "no reload waits for a confirmation; the latest one was rolled back",
  });
});

test("confirmed, it stays", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using it = await fromFile({ a });
  await expect(it.lb.confirmReload()).rejects.toMatchObject({ code: "NOT_FOUND" });
  await it.write({ b });
  await it.lb.reload({ confirmMs: 300 });
  expect(await it.lb.confirmReload()).toMatchObject({ result: "applied" });
  await sleep(600);
  expect(await answers(it.lb, 2)).toEqual({ b: 2 });
  expect(it.reloads()).toEqual(["applied", "confirmed"]);
  expect(it.lb.stats().last_reload).not.toHaveProperty("file_differs");
});

test("reloads within a trial belong to it: the last confirmed configuration comes back", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using c = await echoServer("c");
  await using it = await fromFile({ a });
  await it.write({ b });
  const first = await it.lb.reload({ confirmMs: 60_000 });
  await it.write({ c });
  const plain = await it.lb.reload();
  expect(plain.confirm_by).toBe(first.confirm_by);
  await it.write({ b, c });
  const anew = await it.lb.reload({ confirmMs: 500 });
  expect(Date.parse(anew.confirm_by ?? "")).toBeLessThan(Date.parse(first.confirm_by ?? ""));
  await rolledBack(it.lb);
  expect(await answers(it.lb, 2)).toEqual({ a: 2 });
});

test("a reload that brings the confirmed configuration back ends the trial", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using it = await fromFile({ a });
  await it.write({ b });
  await it.lb.reload({ confirmMs: 60_000 });
  await it.write({ a });
  expect(await it.lb.reload({ confirmMs: 60_000 })).not.toHaveProperty("confirm_by");
  await expect(it.lb.confirmReload()).rejects.toMatchObject({ code: "NOT_FOUND" });
});

test("one that is refused or changes nothing is no trial, and leaves the one under way alone", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using it = await fromFile({ a });
  const unchanged = await it.lb.reload({ confirmMs: 100 });
  expect(unchanged.message).toBe("nothing has changed, so there is nothing to confirm");
  await it.write({ b });
  const { confirm_by } = await it.lb.reload({ confirmMs: 1200 });
  await it.write({ b }, "nonsense = 1");
  await expect(it.lb.reload({ confirmMs: 60_000 })).rejects.toMatchObject({ code: "CONFIG_INVALID" });
  expect(it.lb.stats().last_reload).toMatchObject({ result: "rejected", confirm_by, file_differs: true });
  await rolledBack(it.lb);
  expect(await answers(it.lb, 2)).toEqual({ a: 2 });
  for (const confirmMs of [0, -1, 1.5, Number.NaN, 1e12]) {
    await expect(it.lb.reload({ confirmMs })).rejects.toMatchObject({ code: "CONFIG_INVALID" });
  }
});

test("a roll back gives servers the drain and the weight they had, and keeps what was changed meanwhile", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using c = await echoServer("c");
  await using d = await echoServer("d");
  await using it = await fromFile({ a, b, c: { addr: c.addr, weight: 2 } });
  const { lb } = it;
  await lb.drain("pool/a");
  lb.setWeight("pool/c", 7);
  await lb.addServer("pool", { name: "d", addr: d.addr });
  // The trial lacks a and b, weighs c itself and names d.
  await it.write({ c: { addr: c.addr, weight: 3 }, d: { addr: d.addr, weight: 4 } });
  await lb.reload({ confirmMs: 900 });
  expect([serverStats(lb, "c").weight, serverStats(lb, "d").origin]).toEqual([3, "file"]);
  await using e = await echoServer("e");
  await lb.addServer("pool", { name: "e", addr: e.addr });
  await rolledBack(lb);
  expect(serverStats(lb, "a").draining).toBe(true);
  expect(serverStats(lb, "b").draining).toBe(false);
  expect(serverStats(lb, "c").weight).toBe(7);
  expect(serverStats(lb, "d")).toMatchObject({ origin: "runtime", weight: 1 });
  expect(serverStats(lb, "e").origin).toBe("runtime");
});

test("a server removed within a trial stays away when it is rolled back", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using it = await fromFile({ a, b });
  await it.write({ a, b: { addr: b.addr, weight: 5 } });
  await it.lb.reload({ confirmMs: 500 });
  await it.lb.removeServer("pool/b");
  await rolledBack(it.lb);
  expect(await answers(it.lb, 3)).toEqual({ a: 3 });
  expect(await it.lb.reload()).toMatchObject({
    result: "applied",
    changes: [{ kind: "added", name: "pool/b" }],
  });
});

test("the watcher leaves a file alone that was rolled back, until it changes or a reload is asked for", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using c = await echoServer("c");
  await using it = await fromFile({ a }, {});
  await it.write({ b });
  // Whichever of the two reads it first, what comes of it is the same trial or none.
  const { result } = await it.lb.reload({ confirmMs: 1500 });
  expect(result).toBe("applied");
  await rolledBack(it.lb);
  await it.write({ b });
  await sleep(4000);
  expect(it.lb.stats().last_reload?.result).toBe("rolled_back");
  expect(await answers(it.lb, 2)).toEqual({ a: 2 });
  await it.write({ c });
  await vi.waitFor(async () => expect(await answers(it.lb, 1)).toEqual({ c: 1 }), { timeout: 10_000 });
  expect(it.lb.stats().last_reload).not.toHaveProperty("file_differs");
});

test("a watched file is in service before a trial is asked for, which says so; with reload.watch off it waits", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using it = await fromFile({ a }, {});
  const manual = "[reload]\nwatch = false";
  await it.write({ a }, manual);
  await vi.waitFor(() => expect(it.lb.config.reload.watch).toBe(false), { timeout: 10_000 });
  await it.write({ b }, manual);
  await sleep(1500);
  expect(await answers(it.lb, 2)).toEqual({ a: 2 });
  expect((await it.lb.reload({ confirmMs: 60_000 })).changes).toHaveLength(2);
  await it.lb.confirmReload();
  await it.write({ b });
  await it.lb.reload();
  await it.write({ a });
  await vi.waitFor(async () => expect(await answers(it.lb, 1)).toEqual({ a: 1 }), { timeout: 10_000 });
  const late = await it.lb.reload({ confirmMs: 60_000 });
  expect(late.message).toContain("so there is nothing to confirm: this file is watched");
});

test("close ends a trial without going back, and keeps nobody waiting", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using it = await fromFile({ a });
  await it.write({ b });
  await it.lb.reload({ confirmMs: 200 });
  await it.lb.close();
  await sleep(400);
  expect(it.reloads()).toEqual(["applied"]);
  await expect(it.lb.confirmReload()).rejects.toMatchObject({ code: "CLOSED" });
});
