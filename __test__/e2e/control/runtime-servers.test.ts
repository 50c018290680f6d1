/** Servers that come and go while a balancer runs, over real servers. */
import { expect, test } from "vitest";
import { type Balancer, createBalancer } from "../../../ts/index.ts";
import { answers, Client, collect, echoServer, poolConfig, serverStats } from "../../support/control.ts";

const names = (lb: Balancer): string[] => Object.keys(lb.stats().backends.pool?.server_details ?? {}).sort();

test("an added server is in service before the call resolves, and stats tell where each comes from", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr } }));
  const seen = collect(lb);
  const result = await lb.addServer("pool", { name: "b", addr: b.addr, weight: 3 });
  expect(result).toEqual({
    result: "applied",
    message: "+1 server pool/b",
    changes: [{ kind: "added", what: "server", name: "pool/b" }],
    warnings: [],
  });
  expect(await answers(lb, 8)).toEqual({ a: 2, b: 6 });
  expect([serverStats(lb, "a").origin, serverStats(lb, "b").origin]).toEqual(["file", "runtime"]);
  expect(lb.stats()).toMatchObject({ config_version: 2, last_reload: null });
  expect(seen).toMatchObject([{ type: "servers", changes: result.changes, config_version: 2 }]);
});

test("open connections of a removed server go on, new ones go elsewhere", async () => {
  await using a = await echoServer("a");
  await using b = await echoServer("b");
  await using lb = await createBalancer(poolConfig({ a: { addr: a.addr }, b: { addr: b.addr } }));
  const clients = [await Client.open(lb.address("web")), await Client.open(lb.address("web"))];
  expect(await lb.removeServer("pool/b")).toMatchObject({ result: "applied", message: "−1 server pool/b" });
  expect(await answers(lb, 3)).toEqual({ a: 3 });
  expect(names(lb)).toEqual(["a"]);
  for (const client of clients) {
    expect(await client.echo("on")).toBe("on");
    client.close();
  }
});
