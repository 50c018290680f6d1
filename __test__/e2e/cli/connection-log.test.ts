/** `log.connections` of the running product: to a file that is moved away, and among the lines on standard error. */
import { once } from "node:events";
import { mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { pool, startConvey } from "../../support/convey.ts";
import { until } from "../../support/processes.ts";
import { type Address, dial, echo, listening } from "../../support/sockets.ts";

const lines = (file: string): Record<string, unknown>[] => {
  try {
    return readFileSync(file, "utf8")
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
};

async function visit(front: Address): Promise<string> {
  const client = await dial(front);
  const local = `127.0.0.1:${client.localPort}`;
  client.write("hello");
  await once(client, "data");
  client.end();
  await once(client.resume(), "end");
  client.destroy();
  return local;
}

test("every connection gets a line; after the file was moved away SIGUSR1 begins a new one; a reload ends it", async () => {
  await using server = await listening(echo);
  const folder = mkdtempSync(join(tmpdir(), "convey-connection-log-"));
  const file = join(folder, "connections.log");
  const toml = (logged: string) =>
    pool(
      { 'name with \\"quotes\\" and ü': server.addr },
      { top: ["[log]", `connections = ${logged}`, `connections_file = "${file}"`] },
    ).replace(/servers\.(name.*)\]/, 'servers."$1"]');
  await using convey = await startConvey(toml('"all"'));
  try {
    const first = await visit(convey.front);
    const [line] = await until(() => (lines(file).length === 1 ? lines(file) : undefined), "a line");
    expect(line).toMatchObject({
      ...{ level: "info", client: first, frontend: "web", backend: "pool", attempts: 1 },
      ...{ server: 'name with "quotes" and ü', server_addr: server.addr, bytes_tx: 5, bytes_rx: 5 },
      ...{ closed_first: "client", end: "closed", flags: "--", msg: "connection" },
    });
    const age = Date.now() - Date.parse(line?.time as string);
    expect(age).toBeGreaterThanOrEqual(0);
    expect(age).toBeLessThan(60_000);

    renameSync(file, `${file}.1`);
    process.kill(convey.process.pid, "SIGUSR1");
    await convey.process.waitFor(/opened anew/);
    const second = await visit(convey.front);
    const moved = await until(() => (lines(file).length === 1 ? lines(file) : undefined), "a line");
    expect(moved[0]?.client).toBe(second);
    expect(lines(`${file}.1`)).toHaveLength(1);

    convey.replace(toml('"off"'));
    await convey.process.waitFor(/log\.connections all→off/);
    await visit(convey.front);
    expect((await convey.stats()).lost_log_lines).toBe(0);
    expect(lines(file)).toHaveLength(1);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("without a file the lines stand among those of the log; SIGUSR1 changes nothing and ends nothing", async () => {
  await using server = await listening(echo);
  await using convey = await startConvey(
    pool({ one: server.addr }, { top: ["[log]", "connections = 1.0", 'level = "info"'] }),
  );
  const client = await visit(convey.front);
  await convey.process.waitFor(new RegExp(`"client":"${client}".*"end":"closed"`));
  process.kill(convey.process.pid, "SIGUSR1");
  await convey.process.waitFor(/SIGUSR1: no log\.connections_file is in use/);
  await visit(convey.front);
  expect(convey.process.output(), "no inspector").not.toMatch(/Debugger listening/);
});
