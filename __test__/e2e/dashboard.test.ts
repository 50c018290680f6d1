/** The dashboard in a browser: what it shows, what it changes, and what a person cannot miss. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Balancer, type ConfigInput, createBalancer } from "../../ts/index.ts";
import { Chromium, type Page } from "../support/chromium.ts";
import { ask, Client, echoServer, poolConfig, type TestServer } from "../support/control.ts";
import { lacking } from "../support/requirements.ts";

const missing = lacking({ tools: ["chromium"] });
const TOKEN = "a-token-for-tests";

let browser: Chromium;
let servers: TestServer[];
let lb: Balancer | undefined;
let page: Page | undefined;

beforeAll(async () => {
  if (missing === undefined) browser = await Chromium.start();
}, 60_000);
afterAll(async () => {
  await browser?.[Symbol.asyncDispose]();
});
beforeEach(async (context) => {
  if (missing !== undefined) context.skip(missing);
  process.env.CONVEY_STATS_TOKEN = TOKEN;
  servers = [await echoServer("one"), await echoServer("two"), await echoServer("three")];
});
afterEach(async () => {
  delete process.env.CONVEY_STATS_TOKEN;
  await page?.close();
  page = undefined;
  await lb?.close();
  lb = undefined;
  for (const server of servers ?? []) await server.close();
});

const NAMES = ["one", "two", "three"];

function pool(more: Partial<ConfigInput> = {}): ConfigInput {
  const table = Object.fromEntries(servers.map(({ addr }, i) => [NAMES[i] as string, { addr }]));
  return poolConfig(table, { stats: { port: 0 }, ...more });
}

async function start(config: ConfigInput = pool()): Promise<Balancer> {
  lb = await createBalancer(config);
  return lb;
}

async function open(hash = "", size?: { width: number; height: number }): Promise<Page> {
  const { host, port } = (lb as Balancer).statsAddress as { host: string; port: number };
  page = await browser.open(`http://${host}:${port}/${hash}`, size);
  await page.reads("live", ".status");
  return page;
}

async function signIn(on: Page): Promise<void> {
  await on.press("Sign in");
  await on.reads("Token", "dialog");
  await on.type(TOKEN);
  await on.key("Enter");
  await on.reads("Sign out", "header");
}

/** Rows of the servers' table as a person reads them. */
const row = (name: string): string =>
  `[...document.querySelectorAll("tr.server")].find((one) => one.querySelector(".name").innerText === ${JSON.stringify(name)})`;

describe("what it shows", () => {
  test("every server with its state in words, and it goes on by itself when connections come", async () => {
    const balancer = await start();
    const shown = await open();
    for (const name of NAMES)
      await shown.shows(`${row(name)}?.innerText.includes("up for")`, `${name} is up`);
    await shown.reads("3 of 3 up", ".totals");
    const clients = await Promise.all([1, 2, 3, 4].map(() => Client.open(balancer.address("web"))));
    await shown.shows(
      `document.querySelector(".totals").innerText.match(/Open connections\\s+4/)`,
      "four open",
    );
    for (const client of clients) client.close();
    await shown.shows(
      `document.querySelector(".totals").innerText.match(/Open connections\\s+0/)`,
      "none open",
    );
    await shown.shows(`document.querySelectorAll(".chart canvas").length === 3`, "three charts");
    expect(shown.problems).toEqual([]);
  });

  test("a server that fails stands on top with its reason, and is gone from there when it is back", async () => {
    await start();
    const shown = await open();
    const [first] = servers as [TestServer];
    await first.close();
    await shown.reads("Server pool/one is down", ".attention");
    await shown.reads("connection refused", ".attention");
    await shown.shows(`${row("one")}.className.includes("down")`, "its row says so");
    await shown.shows(
      `${row("one")}.querySelector(".strip").title.includes("failed")`,
      "the strip has failures",
    );
    servers[0] = await echoServer("one", first.port);
    await shown.shows(`document.querySelector(".attention").hidden`, "nothing needs attention");
  });

  test("a page opened late shows what was before", async () => {
    const balancer = await start();
    const client = await Client.open(balancer.address("web"));
    await new Promise((resolve) => setTimeout(resolve, 2500));
    client.close();
    const shown = await open();
    const label = `document.querySelector(".plot").getAttribute("aria-label")`;
    await shown.shows(`/begun now .*, at most (0\\.[1-9]|1)/.test(${label})`, "the connection in the chart");
  });

  test("names are inert, whatever they are made of", async () => {
    const name = `<img src=x onerror="document.title='owned'">&'`;
    const [one] = servers as [TestServer];
    await start({ ...poolConfig({ [name]: { addr: one.addr } }), stats: { port: 0 } });
    const shown = await open();
    await shown.shows(`${row(name)}`, "the name as it is");
    expect(await shown.evaluate(`document.querySelectorAll("img").length`)).toBe(0);
    expect(await shown.evaluate("document.title")).not.toContain("owned");
    expect(shown.problems).toEqual([]);
  });

  test("filter, order and opened server are in the address, and come from it", async () => {
    await start();
    const shown = await open("#q=t&sort=-name&server=pool/two");
    await shown.shows(`document.querySelector("tr.details")`, "the details of a linked server");
    const names = `[...document.querySelectorAll("tr.server .name")].map((one) => one.innerText).join()`;
    await shown.shows(`${names} === "two,three,one" || ${names} === "two,three"`, "sorted and filtered");
    await shown.press("Address", "thead");
    await shown.shows(`location.hash.includes("sort=addr")`, "the new order in the address");
    await shown.evaluate(`location.hash = "#q=three"`);
    await shown.shows(`${names} === "three"`, "one server");
  });

  test("a row keeps focus and selection while it is renewed", async () => {
    const balancer = await start();
    const shown = await open();
    await shown.shows(row("two"), "the row");
    await shown.evaluate(`${row("two")}.querySelector("button").focus()`);
    await shown.evaluate(`getSelection().selectAllChildren(${row("two")}.querySelector("td.addr .value"))`);
    await shown.evaluate(`window.kept = ${row("two")}`);
    const clients = await Promise.all([1, 2, 3].map(() => Client.open(balancer.address("web"))));
    await shown.shows(`${row("two")}.querySelector("td.open").innerText.includes("1")`, "a renewed row");
    expect(await shown.evaluate(`window.kept === ${row("two")} && document.activeElement.innerText`)).toBe(
      "two",
    );
    expect(await shown.evaluate(`getSelection().toString()`)).toContain("127.0.0.1");
    for (const client of clients) client.close();
  });
});

describe("what it survives", () => {
  test("a restart of the balancer: it says that nobody answers, then that it is another one", async () => {
    const balancer = await start();
    const { port } = balancer.statsAddress as { port: number };
    const shown = await open();
    await balancer.close();
    await shown.reads("not answering", ".status");
    await start(pool({ stats: { port } }));
    await shown.reads("live", ".status");
    await shown.reads("the balancer was restarted", ".message");
  });

  test("another configuration: servers come and go in place", async () => {
    const balancer = await start();
    const shown = await open();
    await shown.shows(row("one"), "the first picture");
    const [, two, three] = servers as [TestServer, TestServer, TestServer];
    await balancer.update(
      poolConfig({ two: { addr: two.addr }, four: { addr: three.addr } }, { stats: { port: 0 } }),
    );
    await shown.shows(`${row("four")} && !${row("one")}`, "the new servers");
    await shown.reads("+1 server pool/four", ".lists");
  });
});

describe("what it costs", () => {
  test("page, script, style and icon are under 100 KB gzipped, and may be kept for good", async () => {
    await start();
    const address = lb?.statsAddress as { host: string; port: number };
    const gzip = { headers: { "accept-encoding": "gzip" } };
    const shell = await ask(address, "/");
    const paths = [...shell.body.matchAll(/"(\/assets\/[^"]+)"/g)].map(([, path]) => path as string);
    expect(paths.length).toBe(3);
    let total = shell.body.length;
    for (const path of paths) {
      const answer = await ask(address, path, gzip);
      expect(answer.headers["cache-control"]).toContain("immutable");
      expect(answer.headers["content-encoding"]).toBe("gzip");
      total += Number(answer.headers["content-length"] ?? Buffer.byteLength(answer.body));
    }
    expect(total).toBeLessThan(100 * 1024);
    expect((await ask(address, "/assets/app-000000000000.js")).status).toBe(404);
  });
});

describe("what somebody with the token can change", () => {
  test("a server is drained and enabled after a dialog that says what will happen", async () => {
    const balancer = await start();
    const client = await Client.open(balancer.address("web"));
    const name = client.greeting;
    const others = NAMES.filter((other) => other !== name).join(", ");
    const shown = await open(`#server=pool/${name}`);
    await shown.shows(`${row(name)}.querySelector("td.open").innerText === "1"`, "its connection");
    await shown.reads("Sign in to drain", "tr.details");
    await signIn(shown);
    await shown.press("Drain", "tr.details");
    await shown.reads(`${name} gets no new connections from now on. Its open connection goes on`, "dialog");
    await shown.reads(`New connections to pool go to ${others}`, "dialog");
    await shown.press("Cancel", "dialog");
    await shown.shows(`document.querySelector("dialog") === null`, "no dialog");
    const draining = (): boolean | undefined =>
      balancer.stats().backends.pool?.server_details[name]?.draining;
    expect(draining()).toBe(false);
    await shown.press("Drain", "tr.details");
    await shown.press("Drain", "dialog");
    await shown.shows(`${row(name)}.className.includes("draining")`, "the row says draining");
    await shown.reads("being drained", "tr.server.draining");
    client.close();
    await shown.reads("no connection is left", "tr.server.draining");
    await shown.press("Enable", "tr.details");
    await shown.reads("33 % of those to pool", "dialog");
    await shown.press("Enable", "dialog");
    await shown.shows(`${row(name)}.innerText.includes("up for")`, "the row says up");
    expect(draining()).toBe(false);
  });

  test("a weight is set, and the dialog says the share of new connections beforehand", async () => {
    const balancer = await start();
    const shown = await open("#server=pool/two");
    await signIn(shown);
    await shown.press("Weight", "tr.details");
    await shown.type("4");
    await shown.reads("from 33 % to 67 %", "dialog");
    await shown.key("Enter");
    await shown.shows(`${row("two")}.querySelector("td.weight").innerText === "4"`, "the new weight");
    expect(balancer.stats().backends.pool?.server_details.two?.weight).toBe(4);
  });

  test("a wrong token is refused and forgotten, and nothing has changed", async () => {
    const balancer = await start();
    const shown = await open("#server=pool/one");
    await shown.press("Sign in");
    await shown.type("not-the-token");
    await shown.key("Enter");
    await shown.press("Drain", "tr.details");
    await shown.press("Drain", "dialog");
    await shown.reads("the token was not accepted", ".message");
    await shown.reads("Sign in…", "header");
    expect(balancer.stats().backends.pool?.server_details.one?.draining).toBe(false);
  });

  test("without a token in the configuration there is nothing to press, and the page says why", async () => {
    delete process.env.CONVEY_STATS_TOKEN;
    await start();
    const shown = await open("#server=pool/one");
    await shown.reads("Changes are off", "tr.details");
    expect(await shown.text("header")).not.toMatch(/Sign in|Reload/);
  });
});
