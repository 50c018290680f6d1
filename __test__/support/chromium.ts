/** A browser driven over a pipe by the DevTools protocol: pages, input, pictures. Needs chromium. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { until } from "./processes.ts";

type Answer = {
  id?: number;
  sessionId?: string;
  method?: string;
  error?: { message: string };
  result?: unknown;
};
type Waiting = { resolve: (result: never) => void; reject: (error: Error) => void };

/** A folder for pictures that people look at, ignored by git. */
const SCREENSHOTS = join(import.meta.dirname, "..", "screenshots");

/** Long enough for a machine that is busy with other suites. */
const PATIENCE_MS = 20_000;

/** A headless browser with a profile of its own. `await using` ends it. */
export class Chromium implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #profile: string;
  readonly #waiting = new Map<number, Waiting>();
  readonly #pages = new Map<string, Page>();
  #last = 0;

  private constructor(child: ChildProcess, profile: string) {
    this.#child = child;
    this.#profile = profile;
    let text = "";
    (child.stdio[4] as Readable).setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
      for (let end = text.indexOf("\0"); end >= 0; end = text.indexOf("\0")) {
        this.#take(JSON.parse(text.slice(0, end)) as Answer);
        text = text.slice(end + 1);
      }
    });
    child.once("exit", () => {
      for (const { reject } of this.#waiting.values()) reject(new Error("the browser has ended"));
    });
  }

  /** `prefix` stands before the command, as for a namespace. */
  static async start(prefix: readonly string[] = []): Promise<Chromium> {
    const profile = mkdtempSync(join(tmpdir(), "convey-chromium-"));
    const flags = [
      "--headless=new",
      "--remote-debugging-pipe",
      "--no-sandbox",
      "--disable-gpu",
      "--no-first-run",
    ];
    const more = ["--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb"];
    const command = [...prefix, "chromium", ...flags, ...more, `--user-data-dir=${profile}`, "about:blank"];
    const child = spawn(command[0] as string, command.slice(1), {
      stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
      // A group of its own: ending the wrapper alone would leave its children.
      detached: true,
    });
    const browser = new Chromium(child, profile);
    await browser.send("Browser.getVersion");
    return browser;
  }

  /** A command of the protocol. */
  send<T>(method: string, params: object = {}, sessionId?: string): Promise<T> {
    this.#last += 1;
    const id = this.#last;
    (this.#child.stdio[3] as Writable).write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise<T>((resolve, reject) => this.#waiting.set(id, { resolve: resolve as never, reject }));
  }

  /** Opens an address at a size; problems the page tells of are collected. */
  async open(url: string, { width = 1440, height = 900 } = {}): Promise<Page> {
    const { targetId } = await this.send<{ targetId: string }>("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.send<{ sessionId: string }>("Target.attachToTarget", {
      targetId,
      flatten: true,
    });
    const page = new Page(this, sessionId, targetId);
    this.#pages.set(sessionId, page);
    for (const domain of ["Page", "Runtime", "Log"]) await page.send(`${domain}.enable`);
    await page.size(width, height);
    await page.send("Page.navigate", { url });
    return page;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { pid } = this.#child;
    if (this.#child.exitCode === null && pid !== undefined) {
      const ended = once(this.#child, "exit");
      process.kill(-pid, "SIGKILL");
      await ended;
    }
    rmSync(this.#profile, { recursive: true, force: true, maxRetries: 5 });
  }

  #take(answer: Answer): void {
    if (answer.id === undefined) {
      this.#pages.get(answer.sessionId ?? "")?.heard(answer);
      return;
    }
    const waiting = this.#waiting.get(answer.id);
    this.#waiting.delete(answer.id);
    if (answer.error !== undefined) waiting?.reject(new Error(answer.error.message));
    else waiting?.resolve(answer.result as never);
  }
}

/** One page. */
export class Page {
  /** Errors of scripts, refusals by the content security policy and the like. */
  readonly problems: string[] = [];
  readonly #browser: Chromium;
  readonly #session: string;
  readonly #target: string;

  constructor(browser: Chromium, session: string, target: string) {
    this.#browser = browser;
    this.#session = session;
    this.#target = target;
  }

  send<T = unknown>(method: string, params: object = {}): Promise<T> {
    return this.#browser.send<T>(method, params, this.#session);
  }

  heard({ method, params }: { method?: string; params?: unknown }): void {
    const told = params as {
      exceptionDetails?: unknown;
      entry?: { level: string; text: string; source: string };
    };
    if (method === "Runtime.exceptionThrown") this.problems.push(JSON.stringify(told.exceptionDetails));
    // That a server does not answer is no fault of the page.
    if (method === "Log.entryAdded" && told.entry?.level === "error" && told.entry.source !== "network") {
      this.problems.push(told.entry.text);
    }
  }

  /** The value of an expression, awaited. */
  async evaluate<T>(expression: string): Promise<T> {
    const { result, exceptionDetails } = await this.send<{
      result: { value: T };
      exceptionDetails?: { exception?: { description?: string } };
    }>("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true, userGesture: true });
    if (exceptionDetails !== undefined)
      throw new Error(exceptionDetails.exception?.description ?? expression);
    return result.value;
  }

  /** What a person would read of the page, or of an element. */
  text(selector = "body"): Promise<string> {
    return this.evaluate(`document.querySelector(${JSON.stringify(selector)})?.innerText ?? ""`);
  }

  /** Until an expression is true. */
  async shows(expression: string, what: string): Promise<void> {
    let seen = "";
    const look = async (): Promise<boolean> => {
      const is = await this.evaluate<boolean>(`Boolean(${expression})`).catch(() => false);
      if (!is) seen = await this.text().catch(() => "");
      return is;
    };
    await until(look, what, PATIENCE_MS, () => `${seen}\n${this.problems.join("\n")}`);
  }

  /** Until the text of an element has this in it. */
  reads(text: string, selector = "body"): Promise<void> {
    const of = `document.querySelector(${JSON.stringify(selector)})?.innerText`;
    return this.shows(`${of}?.includes(${JSON.stringify(text)})`, `"${text}" in ${selector}`);
  }

  /** Clicks the first button or link of that text. */
  async press(text: string, within = "body"): Promise<void> {
    const find = `[...document.querySelectorAll(${JSON.stringify(`${within} button, ${within} a`)})].find((one) =>
      one.innerText.trim().startsWith(${JSON.stringify(text)}) && one.offsetParent !== null && !one.disabled)`;
    await this.shows(find, `a button "${text}" in ${within}`);
    const place = await this.evaluate<{ x: number; y: number }>(`(() => {
      const found = ${find};
      found.scrollIntoView({ block: "center" });
      const box = found.getBoundingClientRect();
      return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
    })()`);
    const at = { ...place, button: "left", clickCount: 1 };
    await this.send("Input.dispatchMouseEvent", { ...at, type: "mousePressed" });
    await this.send("Input.dispatchMouseEvent", { ...at, type: "mouseReleased" });
  }

  /** Types into what has the focus. */
  async type(text: string): Promise<void> {
    await this.send("Input.insertText", { text });
  }

  /** Presses a key: "Tab", "Enter", "Escape", "/" and others. */
  async key(key: string, shift = false): Promise<void> {
    const codes: Record<string, number> = { Tab: 9, Enter: 13, Escape: 27, " ": 32 };
    const text = key === "Enter" ? "\r" : key.length === 1 ? key : undefined;
    const event = { key, code: key, windowsVirtualKeyCode: codes[key] ?? 0, modifiers: shift ? 8 : 0, text };
    await this.send("Input.dispatchKeyEvent", {
      ...event,
      type: text === undefined ? "rawKeyDown" : "keyDown",
    });
    await this.send("Input.dispatchKeyEvent", { ...event, text: undefined, type: "keyUp" });
  }

  async size(width: number, height: number): Promise<void> {
    const mobile = width < 600;
    await this.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile });
  }

  async scheme(value: "light" | "dark"): Promise<void> {
    await this.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value }] });
  }

  /** CPU time of the page's main thread so far, in milliseconds: all of it, and of that styles and layout. */
  async spent(): Promise<{ all: number; layout: number }> {
    await this.send("Performance.enable", { timeDomain: "threadTicks" });
    const { metrics } = await this.send<{ metrics: { name: string; value: number }[] }>(
      "Performance.getMetrics",
    );
    const of = (name: string): number => (metrics.find((one) => one.name === name)?.value ?? 0) * 1000;
    return { all: of("TaskDuration"), layout: of("LayoutDuration") + of("RecalcStyleDuration") };
  }

  /** A picture for people, of the window or of the whole page, under `__test__/screenshots`. */
  async picture(name: string, { whole = false } = {}): Promise<void> {
    const options = { format: "png", captureBeyondViewport: whole };
    const { cssContentSize: size } = await this.send<{ cssContentSize: object }>("Page.getLayoutMetrics");
    const clip = whole ? { clip: { ...size, scale: 1 } } : {};
    const { data } = await this.send<{ data: string }>("Page.captureScreenshot", { ...options, ...clip });
    mkdirSync(SCREENSHOTS, { recursive: true });
    writeFileSync(join(SCREENSHOTS, `${name}.png`), Buffer.from(data, "base64"));
  }

  async close(): Promise<void> {
    await this.#browser.send("Target.closeTarget", { targetId: this.#target });
  }
}
