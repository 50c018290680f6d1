/** A resolved configuration as TOML: every key with its value, readable by Convey again. */
import { stringify } from "smol-toml";
import type { Config } from "./schema.ts";

/** TOML with a newline at the end; single settings first, then the tables. */
export function toToml(config: Config): string {
  return stringify(config);
}

/** One line: `proxy mode, 2 frontends, 1 backend, 4 servers`. */
export function summary(config: Config): string {
  const backends = Object.values(config.backends);
  const servers = backends.reduce((sum, backend) => sum + Object.keys(backend.servers).length, 0);
  return [
    `${config.mode} mode`,
    counted(Object.keys(config.frontends).length, "frontend"),
    counted(backends.length, "backend"),
    counted(servers, "server"),
  ].join(", ");
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
