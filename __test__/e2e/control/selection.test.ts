import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test, vi } from "vitest";
import { createBalancer } from "../../../ts/index.ts";
import {
  answers,
  Client,
  collect,
  echoServer,
  poolConfig,
  serverStats as server,
} from "../../support/control.ts";

describe("weights at run time", () => {
  test("a weight set at run time is told, and taken back it is the file's again", async () => {
    await using a = await echoServer("a");
    await using b = await echoServer("b");
    await using lb = await createBalancer(
      poolConfig({ a: { addr: a.addr }, b: { addr: b.addr, weight: 0 } }),
    );
    lb.setWeight("pool/b", 3);
    expect(server(lb, "b").weight).toBe(3);
    expect(await answers(lb, 40)).toEqual({ a: 10, b: 30 });
    lb.setWeight("pool/b", null);
    expect(server(lb, "b").weight).toBe(0);
    expect(await answers(lb, 10)).toEqual({ a: 10 });
  });

  test("names and weights that do not exist are refused with a code", async () => {
    await using a = await echoServer("a");
    await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
    expect(() => lb.setWeight("pool/none", 1)).toThrow(expect.objectContaining({ code: "NOT_FOUND" }));
    expect(() => lb.setWeight("pool/a", 65536)).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
    expect(() => lb.setWeight("pool/a", 1.5)).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
    expect(() => lb.address("none")).toThrow(expect.objectContaining({ code: "NOT_FOUND" }));
    await expect(lb.drain("a")).rejects.toMatchObject({ code: "NOT_FOUND" });
  });
});

describe("drain", () => {
  test("a drained server gets no new connections, keeps its open one, and drain resolves when that ends", async () => {
    await using a = await echoServer("a");
    await using b = await echoServer("b");
    await using lb = await createBalancer(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }));
    const seen = collect(lb);
    const clients = [await Client.open(lb.address("web")), await Client.open(lb.address("web"))];
    const onB = clients.find((c) => c.greeting === "b") as Client;
    const drained = lb.drain("pool/b", { deadlineMs: 10_000 });
    expect(await answers(lb, 6)).toEqual({ a: 6 });
    expect(await onB.echo("still here")).toBe("still here");
    expect(server(lb, "b")).toMatchObject({ draining: true, up: true, current_connections: 1 });
    onB.close();
    expect(await drained).toEqual({ drained: true, connections: 0 });
    lb.enable("pool/b");
    expect(await answers(lb, 6)).toEqual({ a: 3, b: 3 });
    for (const client of clients) client.close();
    expect(seen.filter((e) => e.type === "drain").map((e) => e.state)).toEqual([
      "started",
      "drained",
      "enabled",
    ]);
  });

  test("at its deadline drain resolves with what is still open, and cuts nothing", async () => {
    await using a = await echoServer("a");
    await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
    const client = await Client.open(lb.address("web"));
    expect(await lb.drain("pool/a", { deadlineMs: 100 })).toEqual({ drained: false, connections: 1 });
    expect(await client.echo("x")).toBe("x");
    client.close();
  });

  test("progress is told while connections end, once a second at most, with those that are left", async () => {
    await using a = await echoServer("a");
    await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
    const seen = collect(lb);
    const clients = [];
    for (let i = 0; i < 4; i++) clients.push(await Client.open(lb.address("web")));
    const drained = lb.drain("pool/a", { deadlineMs: 60_000 });
    for (const client of clients) {
      await sleep(700);
      client.close();
    }
    await drained;
    const told = seen.flatMap((e) => (e.type === "drain" ? [e] : []));
    expect([told[0], told.at(-1)]).toMatchObject([
      { state: "started", connections: 4 },
      { state: "drained", connections: 0 },
    ]);
    const progress = told.slice(1, -1);
    expect(progress.length).toBeGreaterThan(0);
    expect(new Set(progress.map(({ state }) => state))).toEqual(new Set(["progress"]));
    for (const [i, { at, connections }] of progress.entries()) {
      const before = told[i];
      expect(at.getTime() - (before?.at.getTime() ?? 0)).toBeGreaterThanOrEqual(990);
      expect(connections).toBeLessThan(before?.connections ?? 0);
    }
  });

  test("with jitter it begins some time later, and enable calls it off before", async () => {
    await using a = await echoServer("a");
    await using b = await echoServer("b");
    await using lb = await createBalancer(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }));
    const seen = collect(lb);
    const random = vi.spyOn(Math, "random").mockReturnValue(0.5);
    try {
      const startedAt = performance.now();
      const calledOff = lb.drain("pool/b", { jitterMs: 60_000 });
      expect(await answers(lb, 4)).toEqual({ a: 2, b: 2 });
      lb.enable("pool/b");
      expect(await calledOff).toMatchObject({ drained: false });
      expect(await lb.drain("pool/b", { jitterMs: 600 })).toMatchObject({ drained: true });
      expect(performance.now() - startedAt).toBeGreaterThanOrEqual(290);
      expect(server(lb, "b").draining).toBe(true);
      const states = seen.flatMap((e) => (e.type === "drain" ? [e.state] : []));
      expect(states).toEqual(["scheduled", "enabled", "cancelled", "scheduled", "started", "drained"]);
      // Through a reload that removes it: what is left of it is drained.
      lb.enable("pool/b");
      const later = lb.drain("pool/b", { jitterMs: 400 });
      await lb.update(poolConfig({ a: { addr: a.addr } }));
      expect(await later).toMatchObject({ drained: true });
      const closing = lb.drain("pool/a", { jitterMs: 60_000 });
      await lb.close();
      expect(await closing).toMatchObject({ drained: false });
    } finally {
      random.mockRestore();
    }
  });

  test("times that are none are refused", async () => {
    await using a = await echoServer("a");
    await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
    for (const options of [
      { deadlineMs: Number.NaN },
      { deadlineMs: -1 },
      { jitterMs: Number.POSITIVE_INFINITY },
    ]) {
      await expect(lb.drain("pool/a", options)).rejects.toMatchObject({ code: "CONFIG_INVALID" });
    }
    expect(server(lb, "a").draining).toBe(false);
  });

  test("enable while draining ends the wait", async () => {
    await using a = await echoServer("a");
    await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
    const client = await Client.open(lb.address("web"));
    const drained = lb.drain("pool/a", { deadlineMs: 60_000 });
    lb.enable("pool/a");
    expect(await drained).toEqual({ drained: false, connections: 1 });
    client.close();
  });

  test("a server that a reload removes is drained when its own connections have ended, not before", async () => {
    await using a = await echoServer("a");
    await using b = await echoServer("b");
    await using lb = await createBalancer(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }));
    const clients = [await Client.open(lb.address("web")), await Client.open(lb.address("web"))];
    const onB = clients.find((c) => c.greeting === "b") as Client;
    const drained = lb.drain("pool/b", { deadlineMs: 60_000 });
    const impatient = lb.drain("pool/b", { deadlineMs: 200 });
    await lb.update(poolConfig({ a: { addr: a.addr } }));
    expect(await impatient).toEqual({ drained: false, connections: 1 });
    expect(await onB.echo("still here")).toBe("still here");
    for (const client of clients) client.close();
    expect(await drained).toEqual({ drained: true, connections: 0 });
  });

  test("a server whose address a reload changes is another one, and the drain is over", async () => {
    await using a = await echoServer("a");
    await using b = await echoServer("b");
    await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
    const client = await Client.open(lb.address("web"));
    const drained = lb.drain("pool/a", { deadlineMs: 60_000 });
    await lb.update(poolConfig({ a: { addr: b.addr } }));
    expect(await drained).toEqual({ drained: false, connections: 1 });
    client.close();
  });

  test("drain and weight survive a health change and a reload that leaves the server alone", async () => {
    await using a = await echoServer("a");
    await using b = await echoServer("b");
    const config = poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } });
    await using lb = await createBalancer(config);
    await lb.drain("pool/a", { deadlineMs: 0 });
    lb.setWeight("pool/b", 7);
    await b.close();
    await vi.waitFor(() => expect(server(lb, "b").up).toBe(false), { timeout: 5000 });
    await using _again = await echoServer("b", b.port);
    await vi.waitFor(() => expect(server(lb, "b").up).toBe(true), { timeout: 5000 });
    const reloaded = await lb.update({ ...config, limits: { max_connections: 1000 } });
    expect(reloaded.result).toBe("applied");
    expect(server(lb, "a").draining).toBe(true);
    expect(server(lb, "b").weight).toBe(7);
    expect(await answers(lb, 3)).toEqual({ b: 3 });
  });
});
