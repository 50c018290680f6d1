import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { Client, echoServer } from "../../support/control.ts";
import { convey, folder, serving } from "./convey.ts";

test("explain --live tells the decision on each new connection that matches, until the count is reached", async () => {
  await using directory = await folder();
  await using server = await echoServer("s1");
  const file = join(directory.path, "web.toml");
  const env = { ...process.env, CONVEY_STATE_DIR: join(directory.path, "state") };
  await writeFile(
    file,
    `[frontends.web]\nlisten_addr = "127.0.0.1:0"\nbackend = "pool"\n[backends.pool.servers]\ns1 = { addr = "${server.addr}" }\n`,
  );
  await using running = serving(["-c", file], env);
  const port = Number((await running.waitFor(/listens on 127\.0\.0\.1:(\d+)/))[1]);
  await running.waitFor(/is ready/);
  await using live = serving(["explain", "--live", "--count", "2", "-c", file, "tcp", "127.0.0.0/8"], env);
  const knock = async () => {
    (await Client.open({ host: "127.0.0.1", port })).close();
    return live.running;
  };
  await expect.poll(knock, { timeout: 20_000, interval: 200 }).toBe(false);
  expect((await live.exited).code).toBe(0);
  expect(live.stdout.match(/^\d{4}-\S+ tcp 127\.0\.0\.1:\d+ -> 127\.0\.0\.1:\d+$/gm)).toHaveLength(2);
  expect(live.stdout.match(/^verdict: connect$/gm)).toHaveLength(2);
  const wrong = await convey(["explain", "--live", "-c", file, "icmp"], { env });
  expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringContaining('the protocol is "tcp" or "udp"')]);
  expect((await convey(["explain", "tcp", "-c", file], { env })).code).toBe(2);
});
