import { readdir, readFile } from "node:fs/promises";
import { getPriority } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { echoServer } from "../../support/control.ts";
import { configuration, folder, ready } from "./convey.ts";

/** The niceness of each thread of a process, by the thread's name. */
async function niceness(pid: number): Promise<[name: string, nice: number][]> {
  const tasks = `/proc/${pid}/task`;
  return Promise.all(
    (await readdir(tasks)).map(async (task) => {
      const stat = await readFile(join(tasks, task, "stat"), "utf8");
      const name = stat.slice(stat.indexOf("(") + 1, stat.lastIndexOf(")"));
      // The 19th field, counted from 1; the third follows the name.
      const nice = stat
        .slice(stat.lastIndexOf(")") + 2)
        .split(" ")
        .at(19 - 3);
      return [name, Number(nice)];
    }),
  );
}

test("threads of the data plane keep their priority, those of Node.js give way to them", async () => {
  await using directory = await folder();
  const server = await echoServer("one");
  const file = await configuration(directory.path, server.port);
  const { running } = await ready(file, []);
  const own = getPriority();
  const threads = await niceness(running.child.pid ?? 0);
  const workers = threads.filter(([name]) => name.startsWith("convey-proxy"));
  expect(workers.length).toBeGreaterThan(0);
  for (const [name, nice] of threads) {
    const lower = name.startsWith("convey-") ? own : Math.max(own, 10);
    expect([name, nice]).toEqual([name, lower]);
  }
  await running.stop();
  await server.close();
});
