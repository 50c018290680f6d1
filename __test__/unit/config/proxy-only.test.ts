/** Keys that only proxy mode honours. */
import { expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";

const config = (frontend: object, backend: object, mode = "passthrough") => ({
  mode,
  frontends: { web: { listen_addr: "10.0.0.1:80", backend: "pool", ...frontend } },
  backends: { pool: { ...backend, servers: { a: { addr: "10.0.0.2:80" } } } },
  shutdown: { delay_ms: 100 },
});

const problems = (input: object) => {
  const checked = checkConfig(input);
  return checked.ok ? [] : checked.problems;
};

test("a key that only proxy mode honours is an error in the packet modes, one for each place, with the reason", () => {
  for (const mode of ["passthrough", "dsr"]) {
    const frontend = { tcp_user_timeout_ms: 1, tcp_fast_open: true, mptcp: true };
    const backend = {
      max_connections: 1,
      queue: 1,
      retry_timeout_ms: 1,
      half_close_timeout_ms: 1,
      tcp_user_timeout_ms: 1,
    };
    const found = problems(config(frontend, backend, mode)).filter(({ severity }) => severity === "error");
    expect(found.map(({ path }) => path).sort()).toEqual(
      [
        ...Object.keys(frontend).map((key) => `frontends.web.${key}`),
        ...Object.keys(backend).map((key) => `backends.pool.${key}`),
      ].sort(),
    );
    for (const { message } of found) {
      expect(message).toContain(`is not available in ${mode} mode: `);
    }
    expect(found.find(({ path }) => path === "frontends.web.mptcp")).toMatchObject({
      found: "true",
      expected: "false",
    });
  }
});

test("what is off may stand in every mode, and shutdown.delay_ms works in all", () => {
  const off = config(
    { tcp_user_timeout_ms: 0, tcp_fast_open: false, mptcp: false },
    { queue: 0, max_connections: 0 },
  );
  expect(problems(off)).toEqual([]);
  expect(problems(config({ mptcp: true, tcp_fast_open: 16 }, { queue: 5 }, "proxy"))).toEqual([]);
});

test("tcp_fast_open takes true, false and numbers, and says so otherwise", () => {
  const taken = (value: unknown) => {
    const checked = checkConfig(config({ tcp_fast_open: value }, {}, "proxy"));
    return checked.ok ? checked.config.frontends.web?.tcp_fast_open : checked.problems;
  };
  expect([true, false, 0, 7].map(taken)).toEqual([256, 0, 0, 7]);
  for (const wrong of ["yes", -1, 65_536, 1.5]) {
    expect(taken(wrong)).toMatchObject([
      { path: "frontends.web.tcp_fast_open", expected: "true, false, or a number from 0 to 65535" },
    ]);
  }
});
