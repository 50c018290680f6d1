import { readFileSync } from "node:fs";
import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";
import { ENGINES } from "./__test__/net/engines.ts";

/** Vitest begins with the largest files; those that register the shared suite are small and take longest. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const isLong = ({ moduleId }: TestSpecification) =>
      readFileSync(moduleId, "utf8").includes('from "./suite/index.ts"');
    const sorted = await super.sort(files);
    return [...sorted.filter(isLong), ...sorted.filter((file) => !isLong(file))];
  }
}

/**
 * One suite after the other. Those that need a quiet machine run one file at a time; the network suite has namespaces of
 * its own and mostly waits: three files at a time.
 */
const suite = (folder: string, groupOrder: number, maxWorkers?: number, name = folder) => ({
  extends: true as const,
  test: {
    name,
    include: [`__test__/${folder}/**/*.test.{ts,mjs}`],
    sequence: { groupOrder },
    setupFiles: ["__test__/support/only-declared.ts"],
    ...(maxWorkers === undefined ? {} : { maxWorkers }),
  },
});

/**
 * The packet modes' suite, once for each engine that this version has. All engines are one group, in which the long files
 * of every engine come first: one after the other, each engine would end with processors that wait for its last file.
 */
function onEveryEngine(folder: string, groupOrder: number, maxWorkers: number) {
  const engines = ENGINES.filter(({ without }) => without === undefined);
  return engines.map(({ name }) => {
    const once = suite(folder, groupOrder, maxWorkers, `${folder}:${name}`);
    return { ...once, test: { ...once.test, env: { CONVEY_ENGINE: name } } };
  });
}

export default defineConfig({
  test: {
    testTimeout: 30_000,
    hookTimeout: 30_000,
    passWithNoTests: true,
    sequence: { sequencer: LongestFirst },
    reporters: ["default", "./__test__/support/matrix.ts"],
    projects: [suite("unit", 0), suite("e2e", 1, 2), suite("fault", 2, 1), ...onEveryEngine("net", 3, 3)],
  },
});
