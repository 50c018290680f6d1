import { defineConfig } from "vitest/config";

/** Suites that need a quiet machine or machine-wide state run one file at a time, after the others. */
const suite = (name: string, groupOrder: number, alone: boolean) => ({
  extends: true as const,
  test: {
    name,
    include: [`__test__/${name}/**/*.test.{ts,mjs}`],
    sequence: { groupOrder },
    setupFiles: ["__test__/support/only-declared.ts"],
    ...(alone ? { fileParallelism: false } : {}),
  },
});

export default defineConfig({
  test: {
    testTimeout: 30_000,
    hookTimeout: 30_000,
    passWithNoTests: true,
    projects: [suite("unit", 0, false), suite("e2e", 1, true), suite("fault", 2, true), suite("net", 3, true)],
  },
});
