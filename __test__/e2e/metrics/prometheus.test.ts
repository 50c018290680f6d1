import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { type Balancer, createBalancer } from "../../../ts/index.ts";
import { Metrics } from "../../../ts/metrics/metrics.ts";
import { answers, ask, echoServer, type TestServer } from "../../support/control.ts";
import { packetStats } from "../../support/packet-stats.ts";
import { finish, type Running, start, until } from "../../support/processes.ts";
import { lacking, needs } from "../../support/requirements.ts";
import { folder, ROOT } from "../cli/convey.ts";

const missing = lacking({ tools: ["prometheus", "promtool"] });
const SAMPLES = join(ROOT, "samples");

let server: TestServer;
let lb: Balancer;
let packets: { port: number; close: () => void };
let home: Awaited<ReturnType<typeof folder>>;
let prometheus: Running | undefined;
let api: string;
let traffic: Promise<void>;
let ended = false;

/** A balancer with a server that answers, one that refuses, and a backend whose only server is down. */
async function balancer(): Promise<Balancer> {
  const quick = { health_check_interval: 1, health_check_fast_interval_ms: 100 };
  return await createBalancer({
    frontends: { web: { listen_addr: "127.0.0.1:0", backend: "pool", max_connections: 100 } },
    backends: {
      pool: {
        ...quick,
        health_check_fall: 1000,
        servers: { s1: { addr: server.addr, max_connections: 50 }, refuses: { addr: "127.0.0.1:1" } },
      },
      dark: { ...quick, health_check_fall: 1, servers: { gone: { addr: "127.0.0.1:1" } } },
    },
    limits: { max_connections: 1000 },
    stats: { port: 0 },
  });
}

/** The same text for a passthrough balancer, whose packets grow with every scrape. */
async function packetExporter(): Promise<typeof packets> {
  let scrapes = 0;
  const metrics = new Metrics({
    stats: () => ({ ...lb.stats(), mode: "passthrough", ...packetStats(++scrapes) }),
    readiness: () => ({ ready: true, reason: "", frontends: { web: true } }),
    config: () => lb.config,
  });
  const http = createServer((_, response) => {
    void metrics.read("text").then((body) => {
      response.setHeader("content-type", "text/plain; version=0.0.4");
      response.end(body);
    });
  });
  await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
  return { port: (http.address() as { port: number }).port, close: () => http.close() };
}

async function freePort(): Promise<number> {
  const http = createServer();
  await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
  const { port } = http.address() as { port: number };
  await new Promise((resolve) => http.close(resolve));
  return port;
}

beforeAll(async () => {
  if (missing !== undefined) return;
  home = await folder();
  server = await echoServer("s1");
  lb = await balancer();
  packets = await packetExporter();
  await writeFile(
    join(home.path, "prometheus.yml"),
    `rule_files: ["${join(SAMPLES, "prometheus", "alerts.yml")}"]
scrape_configs:
  - job_name: convey
    scrape_interval: 500ms
    static_configs: [{ targets: ["127.0.0.1:${lb.statsAddress?.port}", "127.0.0.1:${packets.port}"] }]
`,
  );
  const port = await freePort();
  api = `http://127.0.0.1:${port}/api/v1`;
  prometheus = start([
    "prometheus",
    `--config.file=${join(home.path, "prometheus.yml")}`,
    `--storage.tsdb.path=${join(home.path, "data")}`,
    `--web.listen-address=127.0.0.1:${port}`,
    "--log.level=warn",
  ]);
  traffic = (async () => {
    while (!ended) {
      await answers(lb, 2);
      await sleep(100);
    }
  })();
}, 60_000);

afterAll(async () => {
  if (missing !== undefined) return;
  ended = true;
  await traffic;
  await prometheus?.stop();
  packets.close();
  await lb.close();
  await server.close();
  await home[Symbol.asyncDispose]();
});

type Result = { metric: Record<string, string>; value: [number, string] };

async function query(text: string): Promise<Result[]> {
  const answer = await fetch(`${api}/query?query=${encodeURIComponent(text)}`);
  const body = (await answer.json()) as { status: string; error?: string; data?: { result: Result[] } };
  if (body.status !== "success") throw new Error(`${text}: ${body.error}`);
  return body.data?.result ?? [];
}

/** Waits until Prometheus has data for a query. */
const data = (text: string): Promise<Result[]> =>
  until(
    async () => {
      const result = await query(text).catch((error: Error) => {
        if (error.message.startsWith(text)) throw error;
        return [];
      });
      return result.length > 0 && result;
    },
    `data for ${text}`,
    30_000,
    () => prometheus?.output() ?? "",
  );

beforeEach((context) => {
  if (missing !== undefined) context.skip(missing);
});

test("Prometheus scrapes it and gives the values back", async () => {
  expect((await data('up{job="convey"} == 1')).length).toBeGreaterThan(0);
  const [up] = await data('convey_backend_server_up{backend="pool",server="s1"}');
  expect(up?.value[1]).toBe("1");
  const [total] = await data(
    `convey_frontend_connections_total{instance="127.0.0.1:${lb.statsAddress?.port}"} > 0`,
  );
  expect(Number(total?.value[1])).toBeLessThanOrEqual(lb.stats().total_connections ?? 0);
  const [bucket] = await data('convey_health_check_duration_seconds_count{backend="pool"} > 0');
  expect(bucket).toBeDefined();
}, 60_000);

test("every query of the Grafana dashboard gives data", async () => {
  const dashboard = JSON.parse(await readFile(join(SAMPLES, "grafana", "convey.json"), "utf8"));
  const texts = [...panels(dashboard)].flatMap((panel) => panel.targets.map(({ expr }) => expr));
  expect(texts.length).toBeGreaterThan(40);
  for (const text of texts) await data(filled(text));
  const annotation = dashboard.annotations.list[0].expr as string;
  await query(filled(annotation));
  for (const { name, definition } of dashboard.templating.list) {
    if (definition === undefined) continue;
    const [, series, label] = /^label_values\((.+), (\w+)\)$/.exec(definition) ?? [];
    expect(await data(`count by (${label}) (${filled(series ?? "")})`), name).not.toEqual([]);
  }
}, 120_000);

test("every alert can be evaluated, and those whose case is here fire", async () => {
  const rules = (await (await fetch(`${api}/rules`)).json()) as {
    data: { groups: { rules: { name: string; query: string }[] }[] };
  };
  const alerts = rules.data.groups.flatMap((group) => group.rules);
  expect(alerts.length).toBeGreaterThan(8);
  for (const { query: text } of alerts) await query(text);
  const here = ["ConveyServerDown", "ConveyBackendDown"];
  for (const { query: text } of alerts.filter(({ name }) => here.includes(name))) {
    expect(await data(text)).not.toEqual([]);
  }
}, 60_000);

test("the alerts fire on the samples beside them, and only where they should", async (context) => {
  needs(context, { tools: ["promtool"] });
  for (const args of [
    ["check", "rules", "alerts.yml"],
    ["check", "config", "prometheus.yml"],
    ["test", "rules", "alerts.test.yml"],
  ]) {
    const done = await finish(["promtool", ...args], { cwd: join(SAMPLES, "prometheus") });
    expect([done.code, done.stderr], args.join(" ")).toEqual([0, ""]);
  }
});

test("promtool finds nothing to say about the metrics", async () => {
  for (const port of [lb.statsAddress?.port ?? 0, packets.port]) {
    const { body } = await ask({ host: "127.0.0.1", port }, "/metrics");
    await writeFile(join(home.path, "metrics.txt"), body);
    const done = await finish(["sh", "-c", 'promtool check metrics < "$0"', join(home.path, "metrics.txt")]);
    expect([done.code, done.stdout, done.stderr]).toEqual([0, "", ""]);
  }
});

type Panel = { targets: { expr: string }[] };

const panels = (dashboard: { panels: Partial<Panel>[] }): Panel[] =>
  dashboard.panels.filter((panel): panel is Panel => panel.targets !== undefined);

/** As Grafana fills it in with "All" chosen everywhere. */
const filled = (text: string): string =>
  text.replaceAll(/\$(job|instance|backend)\b/g, ".*").replaceAll("$__rate_interval", "10s");
