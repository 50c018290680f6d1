/** What a plan of a text may learn of the environment. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { createBalancer } from "../../../ts/index.ts";

test("a text reads the variables that the file in service names, and no others", async () => {
  const folder = await mkdtemp(join(tmpdir(), "convey-plan-"));
  vi.stubEnv("CONVEY_TEST_RETRIES", "4");
  vi.stubEnv("CONVEY_TEST_SECRET", "hunter2");
  const toml = (retries: string, level = "info"): string =>
    `[frontends.web]\nlisten = "127.0.0.1:0"\nbackend = "pool"\n[backends.pool]\nretries = "${retries}"\n[log]\nlevel = "${level}"\n`;
  const file = join(folder, "config.toml");
  try {
    await writeFile(file, toml(`\${CONVEY_TEST_RETRIES}`), { mode: 0o600 });
    await using lb = await createBalancer({ configFile: file });
    expect(lb.config.backends.pool?.retries).toBe(4);
    const same = await lb.plan({ toml: toml(`\${CONVEY_TEST_RETRIES}`) });
    expect(same).toMatchObject({ ok: true, changes: [] });
    const curious = await lb.plan({ toml: toml("3", `\${CONVEY_TEST_SECRET}`) });
    expect(curious).toMatchObject({ ok: false, changes: [] });
    expect(JSON.stringify(curious)).toContain("the file in service does not refer to");
    expect(JSON.stringify(curious)).not.toContain("hunter2");
  } finally {
    vi.unstubAllEnvs();
    await rm(folder, { recursive: true, force: true });
  }
});
