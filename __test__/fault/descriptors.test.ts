/** Too few file descriptors for the configuration, at start and at a reload. */
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { runConvey } from "../support/convey.ts";
import { CONVEY } from "../support/peers.ts";
import { start } from "../support/processes.ts";
import { needs } from "../support/requirements.ts";
import { dial, echo, listening } from "../support/sockets.ts";

const WORKERS = 4;

function config(server: string, frontends: number): string {
  const names = Array.from({ length: frontends }, (_, n) => `f${n}`);
  return [
    "[proxy]",
    `workers = ${WORKERS}`,
    "[stats]",
    "port = 0",
    ...names.flatMap((n) => [`[frontends.${n}]`, 'listen_addr = "127.0.0.1:0"', 'backend = "pool"']),
    "[backends.pool.servers.s1]",
    `addr = "${server}"`,
    "",
  ].join("\n");
}

function file(text: string): string {
  const path = join(mkdtempSync(join(tmpdir(), "convey-descriptors-")), "config.toml");
  writeFileSync(path, text, { mode: 0o600 });
  return path;
}

const limited = (limit: number): string[] => ["prlimit", `--nofile=${limit}:${limit}`];

async function echoes(port: number): Promise<void> {
  const client = await dial({ host: "127.0.0.1", port });
  const answer = new Promise((resolve) => client.once("data", (data) => resolve(String(data))));
  client.write("served");
  expect(await answer).toBe("served");
  client.destroy();
}

test("with any limit on open files a start serves on every frontend or says what is missing and exits with 1", async (context) => {
  needs(context, { tools: ["prlimit"] });
  await using server = await listening(echo);
  // Needs 172 beside the twenty or so that Node holds.
  const path = file(config(server.addr, 16));
  const outcomes = new Set<string>();
  for (let limit = 20; limit <= 236; limit += 12) {
    await using convey = start([...limited(limit), process.execPath, CONVEY, "run", "-c", path]);
    const ready = convey.waitFor(/is ready/, 30_000).then(
      () => true,
      () => false,
    );
    if (await ready) {
      outcomes.add("serves");
      const ports = [
        ...(convey.stdout + convey.stderr).matchAll(/"address":"127\.0\.0\.1:(\d+)","backend"/g),
      ];
      expect(ports).toHaveLength(16);
      for (const [, port] of ports) await echoes(Number(port));
      expect(await convey.stop("SIGTERM", 20_000)).toEqual({ code: 0, signal: null });
    } else {
      expect({ limit, ...(await convey.exited) }).toEqual({ limit, code: 1, signal: null });
      const text = convey.stdout + convey.stderr;
      expect(text).toMatch(/the limit of \d+ open files is too low|need 172 .* the limit is \d+/);
      expect(text).toContain("ulimit -n");
      outcomes.add(text.includes("need 172") ? "counted" : "loading");
    }
  }
  expect([...outcomes].sort()).toEqual(["counted", "loading", "serves"]);
}, 180_000);

test("a reload that lacks descriptors is refused whole, told as an event, and the old configuration serves on", async (context) => {
  needs(context, { tools: ["prlimit", "curl"] });
  await using server = await listening(echo);
  await using product = await runConvey(file(config(server.addr, 2)), limited(160));
  product.replace(config(server.addr, 30));
  const [, told] = await product.process.waitFor(/(reload rejected.*)/, 20_000);
  expect(told).toMatch(/file descriptors .*ulimit -n/);
  const stats = await product.stats();
  expect(stats.last_reload).toMatchObject({ result: "rejected" });
  expect(stats.config_version).toBe(1);
  expect(Object.keys(stats.frontends)).toHaveLength(2);
  await echoes(product.front.port);
  // The descriptors that were taken on the way are back.
  product.replace(config(server.addr, 3));
  await product.process.waitFor(/the new configuration is in service/, 20_000);
  await echoes(product.front.port);
}, 60_000);
