/** A balancer in a namespace that a test calls as if it were its own. */

import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import type { Flow, FlowFilter, FlowPage, LiveDecision, LiveOptions } from "../../../ts/index.ts";
import { type Running, start } from "../../support/processes.ts";
import { engine } from "../engines.ts";
import type { Segment } from "./segment.ts";

const ROOT = resolve(import.meta.dirname, "../../..");
const TYPESCRIPT = ["--import", join(ROOT, "__test__/support/typescript.mjs")];

type Line = [id: number, value?: unknown, failure?: string];

/** `await using` ends it as an operator would. */
export class Asked implements AsyncDisposable {
  readonly #process: Running;
  readonly #waiting = new Map<number, (line: Line) => void>();
  #last = 0;

  private constructor(process: Running) {
    this.#process = process;
    const { stdout } = process.child;
    if (stdout) createInterface({ input: stdout }).on("line", (line) => this.#hear(line));
  }

  /** With the engine that the running tests are for. */
  static async start(segment: Segment, config: object): Promise<Asked> {
    const program = join(ROOT, "__test__/net/lab/asked-balancer.ts");
    const argument = JSON.stringify({ engine: engine(), ...config });
    const asked = new Asked(
      start(segment.balancer(process.execPath, ...TYPESCRIPT, program, argument), { stdin: true, cwd: ROOT }),
    );
    await asked.#process.waitFor(/ready/, 20_000);
    return asked;
  }

  flows(filter: FlowFilter = {}): Promise<FlowPage> {
    return this.#ask("flows", filter);
  }

  /** All flows that the filter takes. */
  async allFlows(filter: FlowFilter = {}): Promise<Flow[]> {
    const flows: Flow[] = [];
    let cursor: string | null = null;
    do {
      const page: FlowPage = await this.#ask("flows", filter, cursor === null ? {} : { cursor });
      flows.push(...page.flows);
      cursor = page.cursor;
    } while (cursor !== null);
    return flows;
  }

  killFlows(filter: FlowFilter): Promise<{ killed: number }> {
    return this.#ask("killFlows", filter);
  }

  /** Decisions from now on; the promise resolves with all there were, once that has ended. */
  explainLive(filter: FlowFilter, options: LiveOptions = {}): Promise<LiveDecision[]> {
    const decisions: LiveDecision[] = [];
    return new Promise((resolve, reject) => {
      this.#call("explainLive", [filter, options], (id, line) => {
        const [, value, failure] = line;
        if (line.length === 2) {
          decisions.push(value as LiveDecision);
          return;
        }
        this.#waiting.delete(id);
        if (failure === undefined) resolve(decisions);
        else reject(new Error(failure));
      });
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.child.stdin?.end();
    await Promise.race([this.#process.exited, new Promise((resolve) => setTimeout(resolve, 10_000).unref())]);
    await this.#process[Symbol.asyncDispose]();
  }

  #ask<T>(method: string, ...args: unknown[]): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#call(method, args, (id, [, value, failure]) => {
        this.#waiting.delete(id);
        if (failure === undefined) resolve(value as T);
        else reject(new Error(failure));
      });
    });
  }

  #call(method: string, args: unknown[], hear: (id: number, line: Line) => void): void {
    this.#last += 1;
    const id = this.#last;
    this.#waiting.set(id, (line) => hear(id, line));
    this.#process.child.stdin?.write(`${JSON.stringify([id, method, ...args])}\n`);
  }

  #hear(text: string): void {
    if (!text.startsWith("[")) return;
    const line = JSON.parse(text) as Line;
    this.#waiting.get(line[0])?.(line);
  }
}
