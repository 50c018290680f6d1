import { describe, expect, test } from "vitest";
import { LEAST, LEAST_PACKETS, linesOf } from "./support.ts";

/** What is said of the method. */
const packets = async (mode: string, keys: string, more = "") =>
  (
    await linesOf(
      `mode = "${mode}"\n${LEAST_PACKETS.replace(":8081", ":3000")}[backends.pool]\n${keys}\n${more}`,
    )
  ).filter((line) => line.includes("balance"));

describe("methods in the packet modes", () => {
  test.each(["round_robin", "least_connections", "random_two"])(
    "%s is refused with key, mode and what can be had",
    async (balance) => {
      for (const mode of ["passthrough", "dsr"]) {
        const [line] = await packets(mode, `balance = "${balance}"`);
        expect(line).toContain(
          `error: backends.pool.balance: is not available in ${mode} mode, which looks servers up in a table that no packet writes to (found "${balance}", expected one of "maglev", "source_hash", or mode = "proxy")`,
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
  const [backups] = await linesOf(`${LEAST}backup = true\n`);
  expect(backups).toContain("warning: backends.pool.servers: has backups alone");
});

test("what is no method, prefix or duration is told with what is", async () => {
  const of = async (key: string) => (await linesOf(`${LEAST}[backends.pool]\n${key}\n`))[0];
  expect(await of('balance = "leastconn"')).toContain(
    "error: backends.pool.balance: is not a value it can have",
  );
  expect(await of("source_hash_ipv6_prefix = 0")).toContain(
    "is out of range (found 0, expected an integer from 1 to 128)",
  );
  expect(await of("slow_start_ms = -1")).toContain("is out of range (found -1");
});
