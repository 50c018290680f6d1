/** Counters that are read by number say what reading everything says. */
import { once } from "node:events";
import { expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import { lower } from "../../../ts/config/lower.ts";
import { CounterReader } from "../../../ts/control/counter-reader.ts";
import { loadDataplane } from "../../../ts/native/index.ts";
import { poolConfig } from "../../support/control.ts";
import { until } from "../../support/processes.ts";
import { dial, echo, listening } from "../../support/sockets.ts";

test("counters read again are those of a whole reading: after traffic, a refusal, a new server, and at the end", async () => {
  await using server = await listening(echo);
  const config = (servers: Record<string, { addr: string }>) => {
    const checked = checkConfig({ ...poolConfig(servers), limits: { max_connections: 1 } });
    if (!checked.ok) throw new Error(JSON.stringify(checked.problems));
    return lower(checked.config);
  };
  const { start } = await loadDataplane();
  const dataplane = start(config({ s1: { addr: server.addr } }), () => undefined);
  let wholes = 0;
  const reader = new CounterReader({
    reread: (known) => dataplane.reread(known),
    stats: () => {
      wholes += 1;
      return dataplane.stats();
    },
  });
  const agrees = () => expect(reader.read()).toEqual(dataplane.stats());
  try {
    agrees();
    const [host = "", port] = (dataplane.addresses()[0]?.address ?? "").split(":");
    const client = await dial({ host, port: Number(port) });
    client.write("hello");
    await once(client, "data");
    await until(() => dataplane.stats().counters.bytesRx === 5, "the bytes to be counted");
    agrees();
    expect(wholes, "numbers alone have changed").toBe(1);

    const refused = await dial({ host, port: Number(port) });
    await once(refused.resume(), "end");
    await until(() => dataplane.stats().reasons.length > 0, "the refusal");
    agrees();
    agrees();
    expect(wholes, "a reason has a name").toBe(2);

    dataplane.install(config({ s1: { addr: server.addr }, s2: { addr: server.addr } }));
    agrees();
    dataplane.setServers([
      { backend: "pool", server: "s2", up: false, draining: false, weight: 1, share: 20 },
    ]);
    agrees();
    expect(wholes, "a configuration has names").toBe(4);

    reader.unsettle();
    dataplane.stopAccepting();
    await dataplane.settle();
    agrees();
    client.destroy();
  } finally {
    dataplane.close(false);
  }
  agrees();
});

test("who waits for a place is read again", async () => {
  await using server = await listening(echo);
  const pool = { max_connections: 1, queue: 5, queue_timeout_ms: 60_000, health_check_interval: 3600 };
  const checked = checkConfig(poolConfig({ s1: { addr: server.addr } }, { pool }));
  if (!checked.ok) throw new Error(JSON.stringify(checked.problems));
  const { start } = await loadDataplane();
  const dataplane = start(lower(checked.config), () => undefined);
  const reader = new CounterReader(dataplane);
  try {
    expect(reader.read().backends[0]?.queue).toEqual({ waiting: 0, total: 0, timedOut: 0, refused: 0 });
    const [host = "", port] = (dataplane.addresses()[0]?.address ?? "").split(":");
    const holder = await dial({ host, port: Number(port) });
    await until(
      () => dataplane.stats().backends[0]?.counters.totalConnections === 1,
      "the first to be served",
    );
    const waiting = await dial({ host, port: Number(port) });
    await until(() => dataplane.stats().backends[0]?.queue?.waiting === 1, "the second to wait");
    expect(reader.read()).toEqual(dataplane.stats());
    expect(reader.read().backends[0]?.queue).toEqual({ waiting: 1, total: 1, timedOut: 0, refused: 0 });
    holder.destroy();
    await until(() => dataplane.stats().backends[0]?.queue?.waiting === 0, "nobody to wait");
    expect(reader.read()).toEqual(dataplane.stats());
    waiting.destroy();
  } finally {
    dataplane.close(false);
  }
});
