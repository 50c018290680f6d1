import { defineConfig } from "vitest/config";

/**
 * One suite after the other. Those that need a quiet machine run one file at a time; the network suite has namespaces of
 * its own and mostly waits: two files at a time halve its minutes.
 */
const suite = (name: string, groupOrder: number, maxWorkers?: number) => ({
  extends: true as const,
  test: {
    name,
    include: [`__test__/${name}/**/*.test.{ts,mjs}`],
    sequence: { groupOrder },
    setupFiles: ["__test__/support/only-declared.ts"],
    ...(maxWorkers === undefined ? {} : { maxWorkers }),
  },
});

export default defineConfig({
  test: {
    testTimeout: 30_000,
    hookTimeout: 30_000,
    passWithNoTests: true,
    projects: [suite("unit", 0), suite("e2e", 1, 2), suite("fault", 2, 1), suite("net", 3, 2)],
  },
});
