import { formatProblems } from "../../../ts/config/diagnostics.ts";
import { type LoadResult, loadConfigText } from "../../../ts/config/load.ts";
import type { Overrides } from "../../../ts/config/overrides.ts";

/** The least that is accepted; tests append to it or replace parts. */
export const LEAST = `[frontends.web]
listen_addr = "127.0.0.1:3000"
backend = "pool"
[backends.pool.servers.s1]
addr = "127.0.0.1:8081"
`;

/** The same with addresses that the packet modes can use. */
export const LEAST_PACKETS = LEAST.replace("127.0.0.1:3000", "192.0.2.1:3000").replace(
  "127.0.0.1:8081",
  "198.51.100.1:8081",
);

/** Every problem and warning of a text, one line each, as a terminal without colours shows them. */
export async function linesOf(text: string, overrides: Overrides = []): Promise<string[]> {
  return lines(await loadConfigText(text, { file: "t.toml", overrides }));
}

export function lines(result: LoadResult): string[] {
  const problems = result.ok ? result.warnings : result.problems;
  return problems.length === 0 ? [] : formatProblems(problems).split("\n");
}
