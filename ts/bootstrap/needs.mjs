/**
 * What Rust tests say they need: `#[ignore = "needs root: why"]`, `#[ignore = "needs clang-16 and llvm-16"]`. They are
 * ignored by plain `cargo test`, and run by `npm test` where the machine has what they name.
 */
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";

const CHECKS = {
  root: () => process.getuid() === 0,
  "clang-16": (environment) => onPath("clang-16", environment),
  "llvm-16": (environment) => onPath("llvm-objdump-16", environment),
  "libbpf-dev": () => existsSync("/usr/include/bpf/bpf_helpers.h"),
};

/** Whether the reason is a list of needs that this machine meets; any other reason is not ours to overrule. */
export function isMet(reason, environment = process.env, checks = CHECKS) {
  const list = /^needs ([^:]+)/.exec(reason)?.[1];
  if (list === undefined) return false;
  return list.split(/,\s*and\s+|,\s*|\s+and\s+/).every((need) => checks[need.trim()]?.(environment) === true);
}

function onPath(tool, environment) {
  return (environment.PATH ?? "").split(delimiter).some((directory) => existsSync(join(directory, tool)));
}
