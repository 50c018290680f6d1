/** The dashboard in the packet modes, asked from within the balancer's namespace. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { PacketLab } from "../net/lab/lab.ts";
import { Chromium, type Page } from "../support/chromium.ts";
import { type Product, startConvey } from "../support/convey.ts";
import { lacking } from "../support/requirements.ts";

const missing = lacking({ root: true, tools: ["chromium", "ip", "sysctl", "curl", "nft", "ss"] });

let lab: PacketLab;
let browser: Chromium;
let product: Product | undefined;
let page: Page | undefined;

beforeAll(async () => {
  if (missing !== undefined) return;
  lab = await PacketLab.create();
  browser = await Chromium.start(lab.at("balancer"));
}, 60_000);
afterAll(async () => {
  await browser?.[Symbol.asyncDispose]();
  await lab?.[Symbol.asyncDispose]();
});
beforeEach((context) => {
  if (missing !== undefined) context.skip(missing);
});
afterEach(async () => {
  await page?.close();
  await product?.process.stop("SIGTERM");
  page = undefined;
  product = undefined;
});

async function open(mode: "passthrough" | "dsr"): Promise<Page> {
  product = await startConvey(
    [
      `mode = "${mode}"`,
      ...(mode === "dsr" ? ["[dsr]", 'method = "rewrite"'] : []),
      "[passthrough]",
      "connection_tracker_capacity = 4096",
      "[stats]",
      "port = 7100",
      "[frontends.web]",
      `listen_addr = "${PacketLab.socket(lab.vip(), 80)}"`,
      'backend = "web"',
      "[backends.web]",
      ...(mode === "dsr" ? ['check = "address"'] : []),
      "health_check_interval = 1",
      "[backends.web.servers.s1]",
      `addr = "${PacketLab.socket(lab.server("server1"), 80)}"`,
      "[backends.web.servers.s2]",
      `addr = "${PacketLab.socket(lab.server("server2"), 80)}"`,
      "",
    ].join("\n"),
    lab.at("balancer"),
  );
  page = await browser.open("http://127.0.0.1:7100/", { width: 1600, height: 1000 });
  await page.reads("live", ".status");
  return page;
}

/** Nobody answers; the packets count all the same. */
const knock = (): Promise<string> =>
  lab.sh("client", `for i in 1 2 3 4 5; do curl -s --max-time 0.3 http://${lab.vip()}/ || true; done`);

describe("the packet modes", () => {
  test("passthrough: engine with what was not taken and why, flows, packets, reasons", async () => {
    const shown = await open("passthrough");
    await shown.reads("engine ", ".about");
    await shown.reads("Flows", ".totals");
    await knock();
    const label = `[...document.querySelectorAll(".plot")].at(-1).getAttribute("aria-label")`;
    await shown.shows(`/forwarded now .*?, at most (?!0;)/.test(${label})`, "packets in the chart");
    await shown.reads("Packets/s", ".charts");
    await shown.reads("Packets dropped", ".lists");
    await shown.reads("NAT ports", ".lists");
    expect(await shown.text()).not.toContain("not visible here");
    await shown.picture("passthrough");
    expect(shown.problems).toEqual([]);
  });

  test("dsr: what answers bring is not visible here, nowhere 0", async () => {
    const shown = await open("dsr");
    await knock();
    const cell = (of: string): string => `document.querySelector(${JSON.stringify(of)}).innerText`;
    await shown.shows(`${cell("tr.server td.rx_rate")} === "not visible here"`, "the rate of a server");
    await shown.reads("not visible here", ".totals");
    await shown.reads("to clients: not visible here", ".charts");
    expect(await shown.evaluate(cell("tr.server td.rx"))).toBe("not visible here");
    await shown.picture("dsr");
    expect(shown.problems).toEqual([]);
  });
});
