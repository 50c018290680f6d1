import { expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import type { Config } from "../../../ts/config/schema.ts";
import { settle } from "../../../ts/control/slow-start.ts";
import { carryOver, checkTargets, type ServerRecord, toStates } from "../../../ts/control/states.ts";

function config(servers: Record<string, { addr: string; weight?: number }>): Config {
  const result = checkConfig({
    frontends: { web: { listen_addr: "127.0.0.1:0", backend: "pool" } },
    backends: { pool: { health_check_interval: 0, servers } },
  });
  if (!result.ok) throw new Error(JSON.stringify(result.problems));
  return result.config;
}

const only = (records: ReadonlyMap<string, ServerRecord>): ServerRecord =>
  records.get("pool/s1") as ServerRecord;

function touched(): ReadonlyMap<string, ServerRecord> {
  const records = carryOver(config({ s1: { addr: "10.0.0.1:80", weight: 5 } }), new Map());
  Object.assign(only(records), { up: false, draining: true, weightOverride: 9 });
  return records;
}

test("a new server is up, takes connections and has its configured weight", () => {
  const records = carryOver(config({ s1: { addr: "10.0.0.1:80", weight: 5 } }), new Map());
  expect(toStates(records)).toEqual(
    new Map([["pool/s1", { up: true, draining: false, weight: 5, share: 20 }]]),
  );
});

test("health, drain and a weight set at run time survive a reload that leaves the server alone", () => {
  const next = carryOver(
    config({ s1: { addr: "10.0.0.1:80", weight: 5 }, s2: { addr: "10.0.0.2:80" } }),
    touched(),
  );
  expect(toStates(next).get("pool/s1")).toEqual({ up: false, draining: true, weight: 9, share: 20 });
});

test("a new configured weight ends the one set at run time, and nothing else", () => {
  const next = carryOver(config({ s1: { addr: "10.0.0.1:80", weight: 6 } }), touched());
  expect(toStates(next).get("pool/s1")).toEqual({ up: false, draining: true, weight: 6, share: 20 });
});

test("a new address makes a new server of the same name", () => {
  const next = carryOver(config({ s1: { addr: "10.0.0.9:80", weight: 5 } }), touched());
  expect(toStates(next).get("pool/s1")).toEqual({ up: true, draining: false, weight: 5, share: 20 });
});

test("the records before are left as they were, so that a failed reload changes nothing", () => {
  const before = touched();
  const next = carryOver(config({ s1: { addr: "10.0.0.1:80", weight: 5 } }), before);
  only(next).up = true;
  expect(only(before).up).toBe(false);
});

test("an IPv6 server is checked without brackets, and an interval of 0 means 5 s", () => {
  const [target] = checkTargets(config({ s1: { addr: "[::1]:8080" } }));
  expect(target).toMatchObject({ key: "pool/s1", host: "::1", port: 8080, settings: { intervalMs: 5000 } });
});

test("an ejection goes through a reload, and ends with eject_after and with the server's address", () => {
  const settings = (eject_after: number, addr = "10.0.0.1:80") => {
    const it = config({ s1: { addr } });
    const { pool } = it.backends;
    return { ...it, backends: { pool: { ...pool, eject_after } } } as Config;
  };
  const records = carryOver(settings(3), new Map());
  const ejection = { until: new Date(Date.now() + 1000), cause: "3 failures in a row" };
  Object.assign(only(records), { ejection });
  expect(toStates(records).get("pool/s1")).toMatchObject({ up: false });
  expect(only(carryOver(settings(5), records)).ejection).toEqual(ejection);
  expect(only(carryOver(settings(0), records)).ejection).toBeUndefined();
  expect(only(carryOver(settings(3, "10.0.0.2:80"), records)).ejection).toBeUndefined();
});

test("an ejected server gets no connections, and its slow start begins when the ejection ends", () => {
  const record = only(carryOver(config({ s1: { addr: "10.0.0.1:80" } }), new Map()));
  Object.assign(record, { slowStartMs: 1000, serves: true });
  record.ejection = { until: new Date(), cause: "" };
  settle(record, 0);
  expect(record).toMatchObject({ serves: false, slowSince: undefined });
  record.ejection = undefined;
  settle(record, 5000);
  expect(record).toMatchObject({ serves: true, slowSince: 5000, share: 1 });
});

test("a server that nobody checks is up, and no target", () => {
  const it = config({ s1: { addr: "10.0.0.1:80" } });
  const unchecked = {
    ...it,
    backends: { pool: { ...it.backends.pool, health_check: { type: "none" } } },
  } as Config;
  expect(checkTargets(unchecked)).toEqual([]);
  expect(only(carryOver(unchecked, touched())).up).toBe(true);
});

/** Of one server in a pool that is asked by HTTP over TLS. */
function secured(addr: string, health_check: object = {}): Config {
  const result = checkConfig({
    frontends: { web: { listen_addr: "127.0.0.1:0", backend: "pool" } },
    backends: {
      pool: { health_check: { type: "http", tls: true, ...health_check }, servers: { s1: { addr } } },
    },
  });
  if (!result.ok) throw new Error(JSON.stringify(result.problems));
  return result.config;
}

test("a server on a Unix socket is asked at its path, whatever port the checks of its backend ask", () => {
  const [target] = checkTargets(secured("unix:/run/app.sock", { port: 8081 }));
  expect(target).toMatchObject({ host: "unix:/run/app.sock", port: 0, at: { path: "/run/app.sock" } });
});

test("a server that is configured by name is asked at its address, and by that name unless another is given", () => {
  const asked = (health_check: object, name = "app.test:8080") =>
    checkTargets(secured("10.0.0.1:8080", health_check), () => name)[0];
  expect(asked({})).toMatchObject({
    host: "10.0.0.1",
    at: undefined,
    ask: { host: "app.test:8080", tls: { name: "app.test" } },
  });
  expect(asked({ port: 443 })).toMatchObject({
    at: { host: "10.0.0.1", port: 443 },
    ask: { host: "app.test", tls: { name: "app.test" } },
  });
  const given = { host: "www.test", tls: { name: "www.test" } };
  expect(asked({ host: "www.test" })).toMatchObject({ ask: given });
  expect(asked({ tls_sni: "www.test" })).toMatchObject({ ask: given });
  // An SRV record names a service, and no host.
  const bare = { host: undefined, tls: { name: undefined } };
  expect(asked({}, "_http._tcp.app.test")).toMatchObject({ ask: bare });
});
