/** The samples of the repository, and a form of them that can start on a machine where ports are taken. */
import { fileURLToPath } from "node:url";
import { formatProblems } from "../../ts/config/diagnostics.ts";
import { loadConfigFile } from "../../ts/config/load.ts";
import type { Config } from "../../ts/config/schema.ts";

export const SAMPLES = ["minimal", "full", "proxy", "passthrough", "dsr", "dsr-l2"] as const;
export type Sample = (typeof SAMPLES)[number];

export function sampleFile(name: Sample | "convey.schema.json"): string {
  const file = name.endsWith(".json") ? name : `${name}.toml`;
  return fileURLToPath(new URL(`../../samples/${file}`, import.meta.url));
}

/** A sample as it is; a sample with a problem fails the test that asks for it. */
export async function loadSample(name: Sample): Promise<Config> {
  const result = await loadConfigFile(sampleFile(name));
  if (!result.ok) throw new Error(formatProblems(result.problems));
  return result.config;
}

/** The configuration with every port it listens on left to the kernel, for proxy mode. */
export function withFreePorts(config: Config): Config {
  const free = structuredClone(config);
  for (const frontend of Object.values(free.frontends)) {
    frontend.listen_addr = frontend.listen_addr?.replace(/:\d+$/, ":0");
  }
  if (free.stats) free.stats.port = 0;
  return free;
}
