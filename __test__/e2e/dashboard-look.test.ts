/** The dashboard as people with different eyes, hands and windows have it; pictures of each are left to be looked at. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Balancer, createBalancer } from "../../ts/index.ts";
import { Chromium, type Page } from "../support/chromium.ts";
import { Client, echoServer, type TestServer } from "../support/control.ts";
import { lacking } from "../support/requirements.ts";

const missing = lacking({ tools: ["chromium"] });
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const DESKTOP = { width: 1600, height: 1000 };
const PHONE = { width: 390, height: 844 };

let browser: Chromium;
let lb: Balancer;
let page: Page | undefined;
let servers: TestServer[];
let traffic: { stop: () => Promise<void> };

beforeAll(async () => {
  if (missing !== undefined) return;
  browser = await Chromium.start();
  process.env.CONVEY_STATS_TOKEN = "a-token-for-tests";
  servers = await Promise.all(["a1", "a2", "a3", "w1", "w2"].map((name) => echoServer(name)));
  const [a1, a2, a3, w1, w2] = servers as [TestServer, TestServer, TestServer, TestServer, TestServer];
  const checks = { health_check_interval: 1, health_check_fast_interval_ms: 100 };
  lb = await createBalancer({
    frontends: {
      api: { listen_addr: "127.0.0.1:0", backend: "api" },
      web: { listen_addr: "127.0.0.1:0", backend: "web" },
    },
    backends: {
      api: {
        ...checks,
        servers: {
          "api-1": { addr: a1.addr },
          "api-2": { addr: a2.addr, weight: 2 },
          "api-3": { addr: a3.addr },
        },
      },
      web: { ...checks, servers: { "web-1": { addr: w1.addr }, "web-2": { addr: w2.addr } } },
    },
    proxy: { workers: 2 },
    stats: { port: 0 },
  });
  traffic = talk();
  await sleep(6000);
}, 60_000);
afterAll(async () => {
  await traffic?.stop();
  await browser?.[Symbol.asyncDispose]();
  await lb?.close();
  for (const server of servers ?? []) await server.close();
  delete process.env.CONVEY_STATS_TOKEN;
});
beforeEach((context) => {
  if (missing !== undefined) context.skip(missing);
});
afterEach(async () => {
  await page?.close();
  page = undefined;
});

/** Some connections that stay and many that come and go. */
function talk(): { stop: () => Promise<void> } {
  let going = true;
  const run = async (): Promise<void> => {
    const held: Client[] = [];
    for (let round = 0; going; round++) {
      const client = await Client.open(lb.address(round % 3 === 0 ? "web" : "api"));
      await client.echo("x".repeat(200 + ((round * 7919) % 20_000)));
      held.push(client);
      if (held.length > 8 + ((round >> 4) % 9)) held.shift()?.close();
      await sleep(15 + ((round * 31) % 60));
    }
    for (const client of held) client.close();
  };
  const ended = run();
  return {
    stop: async () => {
      going = false;
      await ended;
    },
  };
}

async function open(of: Balancer, hash = "", size = DESKTOP): Promise<Page> {
  const { host, port } = of.statsAddress as { host: string; port: number };
  page = await browser.open(`http://${host}:${port}/${hash}`, size);
  await page.reads("live", ".status");
  await page.shows(`document.querySelector("tr.server")`, "servers");
  return page;
}

/** Serious findings of axe, with what they are about. */
async function findings(shown: Page): Promise<string[]> {
  await shown.evaluate(AXE);
  return shown.evaluate(`axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) =>
    violations.filter(({ impact }) => impact === "serious" || impact === "critical")
      .map(({ id, nodes }) => id + ": " + nodes.slice(0, 3).map(({ html }) => html.slice(0, 160)).join(" | ")))`);
}

const overflows = (shown: Page): Promise<boolean> =>
  shown.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth");

describe("it can be read", () => {
  for (const [name, scheme, size] of [
    ["light", "light", DESKTOP],
    ["dark", "dark", DESKTOP],
    ["laptop", "light", { width: 1280, height: 800 }],
    ["phone", "light", PHONE],
    ["phone-dark", "dark", PHONE],
  ] as const) {
    test(`${name}: by everybody (axe finds nothing serious), and nothing sticks out of the window`, async () => {
      const shown = await open(lb, "#server=api/api-2", size);
      await shown.scheme(scheme);
      await sleep(1500);
      await shown.picture(name, { whole: size.width < 600 });
      expect(await findings(shown)).toEqual([]);
      expect(await overflows(shown)).toBe(false);
      expect(shown.problems).toEqual([]);
    });
  }

  test("a failure is said in words and on top, in both schemes", async () => {
    const [first] = servers as [TestServer];
    await first.close();
    const shown = await open(lb);
    await shown.reads("Server api/api-1 is down", ".attention");
    await lb.drain("web/web-2", { deadlineMs: 1 });
    await shown.reads("Server web/web-2 is draining", ".attention");
    await shown.picture("failure");
    expect(await findings(shown)).toEqual([]);
    await shown.scheme("dark");
    await shown.picture("failure-dark");
    expect(await findings(shown)).toEqual([]);
    lb.enable("web/web-2");
    servers[0] = await echoServer("a1", first.port);
  });

  test("a dialog is one for everybody, too", async () => {
    const shown = await open(lb, "#server=api/api-2");
    await shown.press("Sign in");
    await shown.type("a-token-for-tests");
    await shown.key("Enter");
    await shown.press("Weight", "tr.details");
    await shown.reads("Set weight", "dialog");
    await shown.picture("dialog");
    expect(await findings(shown)).toEqual([]);
    await shown.key("Escape");
    await shown.shows(`document.querySelector("dialog") === null`, "no dialog");
    expect(await shown.evaluate("document.activeElement.innerText")).toBe("Weight…");
  });
});

describe("it can be used", () => {
  test("by the keyboard alone: to the filter, to a server, its details, and back", async () => {
    const shown = await open(lb);
    const focused = `document.activeElement.innerText ?? document.activeElement.placeholder`;
    await shown.key("/");
    expect(await shown.evaluate(`document.activeElement.type`)).toBe("search");
    await shown.type("web");
    await shown.reads("2 of 5 servers match", ".found");
    const walked: string[] = [];
    for (let i = 0; i < 40; i++) {
      await shown.key("Tab");
      walked.push(await shown.evaluate(focused));
      if (walked.at(-1) === "web-1") break;
    }
    expect(walked, walked.join(" > ")).toContain("Copy as text");
    expect(walked.at(-1)).toBe("web-1");
    await shown.key("Enter");
    await shown.shows(`document.querySelector("tr.details")`, "details");
    await shown.shows(
      `document.activeElement.getAttribute("aria-expanded") === "true"`,
      "it says that it is open",
    );
    await shown.key("Enter");
    await shown.shows(`!document.querySelector("tr.details")`, "no details");
    await shown.key("/");
    await shown.key("Escape");
    await shown.shows(`document.querySelectorAll("tr.server").length === 5`, "all servers");
  });

  test("as text: what is copied has every server in aligned columns", async () => {
    const shown = await open(lb);
    const { host, port } = lb.statsAddress as { host: string; port: number };
    await browser.send("Browser.grantPermissions", {
      origin: `http://${host}:${port}`,
      permissions: ["clipboardReadWrite", "clipboardSanitizedWrite"],
    });
    await shown.evaluate(`navigator.clipboard.writeText = async (text) => { window.copied = text; }`);
    await shown.press("Copy as text");
    await shown.shows("window.copied", "the text");
    const text = await shown.evaluate<string>("window.copied");
    for (const name of ["api-1", "api-2", "api-3", "web-1", "web-2"])
      expect(text).toMatch(new RegExp(`^${name} +127`, "m"));
  });

  test("with 500 servers: a frame is worked in within 16 ms", async () => {
    const many = Object.fromEntries(
      Array.from({ length: 500 }, (_, i) => [
        `server-${i + 1}`,
        { addr: (servers[i % 5] as TestServer).addr },
      ]),
    );
    const own = await createBalancer({
      frontends: { web: { listen_addr: "127.0.0.1:0", backend: "pool" } },
      backends: { pool: { health_check_interval: 1, servers: many } },
      proxy: { workers: 2 },
      stats: { port: 0 },
    });
    try {
      const shown = await open(own);
      await shown.shows(`document.querySelectorAll("tr.server").length === 500`, "every server");
      const frames = `performance.getEntriesByName("convey-delta").length`;
      await shown.shows(`${frames} >= 3`, "some frames");
      const seen = await shown.evaluate<number>(frames);
      const before = await shown.spent();
      await shown.shows(`${frames} >= ${seen + 10}`, "ten frames more");
      const after = await shown.spent();
      const n = (await shown.evaluate<number>(frames)) - seen;
      await shown.picture("500-servers");
      const [all, layout] = [(after.all - before.all) / n, (after.layout - before.layout) / n];
      const patches = await shown.evaluate<number[]>(
        `performance.getEntriesByName("convey-delta").map(({ duration }) => duration).sort((a, b) => a - b)`,
      );
      const patch = patches[patches.length >> 2] as number;
      console.log(
        `500 servers, all of them changed: a frame is worked in within ${patch.toFixed(1)} ms; ` +
          `the main thread spends ${all.toFixed(1)} ms a second, ${layout.toFixed(1)} ms of it in layout`,
      );
      expect(patch).toBeLessThan(16);
    } finally {
      await page?.close();
      page = undefined;
      await own.close();
    }
  });
});
