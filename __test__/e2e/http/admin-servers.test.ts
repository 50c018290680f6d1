import { execFile } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { api, TOKEN } from "../../support/api.ts";
import { answers, Client } from "../../support/control.ts";
import { needs } from "../../support/requirements.ts";

describe("servers over the API", () => {
  test("they are listed with their names, and one is found by its own", async () => {
    await using it = await api();
    const [status, { servers }] = await it.json("GET", "/api/v1/servers");
    expect([status, servers]).toMatchObject([
      200,
      [
        { backend: "pool", name: "s1", addr: it.servers[0]?.addr, weight: 1, draining: false },
        { backend: "pool", name: "s2" },
      ],
    ]);
    expect(await it.json("GET", "/api/v1/servers/pool/s2")).toMatchObject([200, { name: "s2" }]);
    for (const path of ["pool/s3", "none/s1", "pool/constructor", "__proto__/s1"]) {
      expect(await it.json("GET", `/api/v1/servers/${path}`), path).toMatchObject([
        404,
        { code: "NOT_FOUND" },
      ]);
    }
  });

  test("a drain answers at once and keeps its connections; new ones go elsewhere until it is enabled", async () => {
    await using it = await api();
    const clients = [await Client.open(it.lb.address("web")), await Client.open(it.lb.address("web"))];
    const held = clients.find(({ greeting }) => greeting === "s1") as Client;
    const [status, shown] = await it.json("PATCH", "/api/v1/servers/pool/s1", { state: "draining" });
    expect([status, shown]).toMatchObject([200, { draining: true, current_connections: 1 }]);
    expect(shown).not.toHaveProperty("drain");
    expect(await answers(it.lb, 4)).toEqual({ s2: 4 });
    expect(await held.echo("still here")).toBe("still here");
    expect(await it.json("PATCH", "/api/v1/servers/pool/s1", { state: "enabled" })).toMatchObject([
      200,
      { draining: false },
    ]);
    expect(Object.keys(await answers(it.lb, 4)).sort()).toEqual(["s1", "s2"]);
    for (const client of clients) client.close();
  });

  test("with wait=true the answer comes when the last connection has ended, or the deadline", async () => {
    await using it = await api();
    const clients = [await Client.open(it.lb.address("web")), await Client.open(it.lb.address("web"))];
    const late = await it.json("PATCH", "/api/v1/servers/pool/s1?wait=true", {
      state: "draining",
      deadline_ms: 200,
    });
    expect(late).toMatchObject([200, { drain: { drained: false, connections: 1 } }]);
    let ended = false;
    const waiting = it
      .json("PATCH", "/api/v1/servers/pool/s1?wait=true", { state: "draining" })
      .finally(() => {
        ended = true;
      });
    await sleep(300);
    expect(ended).toBe(false);
    for (const client of clients) client.close();
    expect(await waiting).toMatchObject([200, { drain: { drained: true, connections: 0 } }]);
  });

  test("a weight is set, and null goes back to the configured one", async () => {
    await using it = await api();
    const set = (weight: number | null) => it.json("PATCH", "/api/v1/servers/pool/s1", { weight });
    expect(await set(0)).toMatchObject([200, { weight: 0 }]);
    expect(await answers(it.lb, 3)).toEqual({ s2: 3 });
    expect(await set(null)).toMatchObject([200, { weight: 1 }]);
  });

  test("servers are added, replaced and removed while it runs", async () => {
    await using it = await api();
    const [one, two] = it.servers.map(({ addr }) => addr);
    const add = (name: string, addr = one) =>
      it.json("POST", "/api/v1/backends/pool/servers", { name, addr });
    expect(await add("s3")).toMatchObject([201, { result: "applied", message: "+1 server pool/s3" }]);
    expect(await add("s3")).toMatchObject([422, { code: "CONFIG_INVALID" }]);
    expect(await add("s4", "127.0.0.1")).toMatchObject([
      422,
      { code: "CONFIG_INVALID", problems: [{ path: "backends.pool.servers.s4.addr" }] },
    ]);
    expect(await it.json("DELETE", "/api/v1/servers/pool/s3")).toMatchObject([200, { result: "applied" }]);
    expect(await it.json("DELETE", "/api/v1/servers/pool/s3")).toMatchObject([404, { code: "NOT_FOUND" }]);
    const put = (body: unknown) => it.json("PUT", "/api/v1/backends/pool/servers", body);
    expect(await put([{ name: "s2", addr: two, weight: 4 }])).toMatchObject([
      200,
      {
        changes: [
          { kind: "removed", name: "pool/s1" },
          { kind: "changed", server: "pool/s2" },
        ],
      },
    ]);
    expect(await answers(it.lb, 3)).toEqual({ s2: 3 });
    expect(await it.json("POST", "/api/v1/backends/none/servers", { name: "s", addr: one })).toMatchObject([
      404,
      { code: "NOT_FOUND" },
    ]);
  });

  test("one with a deadline is drained before it is removed", async () => {
    await using it = await api();
    const clients = [await Client.open(it.lb.address("web")), await Client.open(it.lb.address("web"))];
    expect(await it.json("DELETE", "/api/v1/servers/pool/s1?deadline_ms=10000")).toMatchObject([
      202,
      { result: "draining" },
    ]);
    expect(await it.json("GET", "/api/v1/servers/pool/s1")).toMatchObject([200, { draining: true }]);
    for (const client of clients) client.close();
    await expect.poll(async () => (await it.call("GET", "/api/v1/servers/pool/s1")).status).toBe(404);
    expect(await it.json("DELETE", "/api/v1/servers/pool/s2?deadline_ms=0&wait=true")).toMatchObject([
      200,
      { result: "applied", drain: { drained: true } },
    ]);
  });

  test("curl drains with the token as bearer or as password, and not without", async (context) => {
    needs(context, { tools: ["curl"] });
    await using it = await api();
    const url = `http://127.0.0.1:${it.address.port}/api/v1/servers/pool/s1`;
    const curl = async (...more: string[]) => {
      const change = ["-X", "PATCH", "-H", "content-type: application/json", "-d", '{"state":"draining"}'];
      const { stdout } = await promisify(execFile)("curl", [
        ...["-s", "-o", "/dev/null", "-w", "%{http_code}"],
        ...change,
        ...more,
        url,
      ]);
      return stdout;
    };
    expect(await curl()).toBe("401");
    expect(await curl("-u", `anyone:${TOKEN}x`)).toBe("401");
    expect(it.lb.stats().backends.pool?.server_details.s1?.draining).toBe(false);
    expect(await curl("-u", `anyone:${TOKEN}`)).toBe("200");
    expect(await curl("-H", `authorization: Bearer ${TOKEN}`)).toBe("200");
  });

  test("names of any characters are found by their percent-encoding", async () => {
    const name = "a b%2F?#ü<&";
    await using it = await api();
    const added = await it.json("POST", "/api/v1/backends/pool/servers", { name, addr: it.servers[0]?.addr });
    expect(added[0]).toBe(201);
    const path = `/api/v1/servers/pool/${encodeURIComponent(name)}`;
    expect(await it.json("GET", path)).toMatchObject([200, { name }]);
    expect(await it.json("PATCH", path, { weight: 7 })).toMatchObject([200, { name, weight: 7 }]);
  });
});
