import { expect, test } from "vitest";
import { WHOLE_SHARE } from "../../../ts/config/lower.ts";
import { whyNot } from "../../../ts/control/ejection.ts";
import type { ServerRecord } from "../../../ts/control/states.ts";

const OUT = { until: new Date(), cause: "" };

/** Records of a backend, and of another one that is none of its business. */
function records(...pool: Partial<ServerRecord>[]): Map<string, ServerRecord> {
  const record = (backend: string, n: number, more: Partial<ServerRecord>): ServerRecord => ({
    ...{ key: `${backend}/${n}`, backend, server: String(n), addr: "10.0.0.1:80", configuredWeight: 1 },
    ...{ weightOverride: undefined, draining: false, up: true, ejection: undefined },
    ...{ slowStartMs: 0, serves: true, slowSince: undefined, share: WHOLE_SHARE },
    ...more,
  });
  const all = [...pool.map((more, n) => record("pool", n, more)), record("other", 0, { ejection: OUT })];
  return new Map(all.map((it) => [it.key, it]));
}

const asked = (all: Map<string, ServerRecord>, max_ejected_percent: number) =>
  whyNot(all.get("pool/0") as ServerRecord, all, { max_ejected_percent });

test("the share of a backend that may be out is rounded down, and counts those that are out", () => {
  expect(asked(records({}, {}), 50)).toBeUndefined();
  expect(asked(records({}, {}), 49)).toBe("max_ejected_percent = 49 of 2 allows 0");
  expect(asked(records({}, { ejection: OUT }, {}), 50)).toBe("max_ejected_percent = 50 of 3 allows 1");
  expect(asked(records({}, { ejection: OUT }, {}, {}), 50)).toBeUndefined();
  expect(asked(records({}), 99)).toBe("max_ejected_percent = 99 of 1 allows 0");
});

test.each([{ up: false }, { draining: true }, { configuredWeight: 0 }, { weightOverride: 0 }])(
  "the last server that takes connections stays, another one being %o, unless all may be out",
  (other) => {
    expect(asked(records({}, other), 50)).toBe("no other server takes connections");
    expect(asked(records({}, other), 100)).toBeUndefined();
  },
);
