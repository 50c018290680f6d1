import { describe, expect, test } from "vitest";
import { LEAST, LEAST_PACKETS, linesOf } from "./support.ts";

const packets = (mode: string, keys: string, more = "") =>
  linesOf(`mode = "${mode}"\n${LEAST_PACKETS}[backends.pool]\n${keys}\n${more}`);

describe("methods in the packet modes", () => {
  test.each(["round_robin", "least_connections", "random_two"])(
    "%s is refused with key, mode and what can be had",
    async (balance) => {
      for (const mode of ["passthrough", "dsr"]) {
        const [line] = await packets(mode, `balance = "${balance}"`);
        expect(line).toContain(
          `error: backends.pool.balance: is not available in ${mode} mode, which looks servers up in a table that no packet writes to (found "${balance}", expected "maglev" or "source_hash", or mode = "proxy")`,
        );
      }
    },
  );

  test.each(["maglev", "source_hash"])("%s can be had in both", async (balance) => {
    for (const mode of ["passthrough", "dsr"])
      expect(await packets(mode, `balance = "${balance}"`)).toEqual([]);
  });

  test("source_hash is refused with minimal tracking", async () => {
    const minimal = '[dsr]\nconnection_tracking = "minimal"\n';
    const [line] = await packets("dsr", 'balance = "source_hash"', minimal);
    expect(line).toContain("error: backends.pool.balance: is not available with minimal tracking");
    expect(await packets("dsr", 'balance = "maglev"', minimal)).toEqual([]);
  });
});

test("a prefix without source_hash, and backups alone, are warnings", async () => {
  const [prefix] = await linesOf(`${LEAST}[backends.pool]\nsource_hash_ipv6_prefix = 56\n`);
  expect(prefix).toContain(
    'warning: backends.pool.source_hash_ipv6_prefix: has no effect without balance = "source_hash"',
  );
  const [backups] = await linesOf(LEAST.replace(/addr = "([^"]*)"/, 'addr = "$1"\nbackup = true'));
  expect(backups).toContain("warning: backends.pool.servers: has backups alone");
});

test("what is no method, prefix or duration is told with what is", async () => {
  const lines = await linesOf(
    `${LEAST}[backends.pool]\nbalance = "leastconn"\nsource_hash_ipv6_prefix = 0\nslow_start_ms = -1\n`,
  );
  expect(lines.map((line) => line.replace(/^[^ ]+ /, ""))).toEqual([
    expect.stringContaining("error: backends.pool.balance: is not one of the words allowed"),
    expect.stringContaining("error: backends.pool.source_hash_ipv6_prefix: is out of range (found 0"),
    expect.stringContaining("error: backends.pool.slow_start_ms: is out of range (found -1"),
  ]);
});
