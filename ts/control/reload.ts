/**
 * Reloads one after another. Requests to read the file that come while one waits its turn share it, so any
 * number of them a second costs at most one read at a time.
 */
import { formatProblem, formatProblems } from "../config/diagnostics.ts";
import type { Problem } from "../config/problem.ts";
import type { Config } from "../config/schema.ts";
import { ConveyError } from "../native/index.ts";
import { type Change, describeChanges } from "./diff.ts";

/** Where a configuration came from. */
export type ReloadSource = "file" | "update";

/** How the latest reload ended. */
export type ReloadStatus = {
  at: Date;
  result: "applied" | "unchanged" | "rejected";
  source: ReloadSource;
  message: string;
};

/** What a reload that was not rejected did. */
export type ReloadResult = { result: "applied" | "unchanged"; warnings: Problem[] };

/** A configuration that was read and judged. */
export type Candidate =
  | { ok: true; config: Config; warnings: Problem[] }
  | { ok: false; problems: Problem[] };

/** Puts a configuration in service or throws and leaves the old one; tells what it changed and could not. */
export type Apply = (config: Config) => Promise<Applied>;
export type Applied = ReloadResult & { changes: Change[] };

/** Told of every reload that has ended. */
export type OnReload = (status: ReloadStatus, changes: Change[], warnings: Problem[]) => void;

/** See the module's head. */
export class Reloader {
  readonly #apply: Apply;
  readonly #onStatus: OnReload;
  #tail: Promise<unknown> = Promise.resolve();
  #nextFileReload: Promise<ReloadResult> | undefined;
  #last: ReloadStatus | undefined;
  #closed = false;
  #giveUp: (() => void) | undefined;

  constructor(apply: Apply, onStatus: OnReload) {
    this.#apply = apply;
    this.#onStatus = onStatus;
  }

  /** How the latest one ended. */
  get last(): ReloadStatus | undefined {
    return this.#last;
  }

  /** Resolves when every reload asked for so far has ended, well or not. */
  async idle(): Promise<void> {
    await this.#tail;
  }

  /** Reads with `read` when it is this one's turn; rejects with `CONFIG_INVALID` and the problems. */
  fromFile(read: () => Promise<Candidate>): Promise<ReloadResult> {
    this.#nextFileReload ??= this.#enqueue("file", () => {
      this.#nextFileReload = undefined;
      return read();
    });
    return this.#nextFileReload;
  }

  /** Applies a configuration made by a program, in its turn. */
  fromUpdate(candidate: Candidate): Promise<ReloadResult> {
    return this.#enqueue("update", () => Promise.resolve(candidate));
  }

  /** Notes a reload that failed before there was anything to read. */
  reject(source: ReloadSource, message: string): void {
    this.#record({ at: new Date(), result: "rejected", source, message }, [], []);
  }

  /** For good: a file that is being read is waited for no longer, for what it says would not be put in service. */
  close(): void {
    this.#closed = true;
    this.#giveUp?.();
  }

  #enqueue(source: ReloadSource, read: () => Promise<Candidate>): Promise<ReloadResult> {
    const run = this.#tail.then(() => this.#run(source, read));
    this.#tail = run.catch(() => undefined);
    return run;
  }

  async #run(source: ReloadSource, read: () => Promise<Candidate>): Promise<ReloadResult> {
    try {
      const candidate = await this.#unlessClosed(read);
      if (!candidate.ok) throw invalidConfig(candidate.problems);
      const { result, changes, warnings: leftOut } = await this.#apply(candidate.config);
      const warnings = [...candidate.warnings, ...leftOut];
      this.#record({ at: new Date(), result, source, message: told(result, changes) }, changes, warnings);
      return { result, warnings };
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#record({ at: new Date(), result: "rejected", source, message }, [], []);
      throw error;
    }
  }

  async #unlessClosed<T>(read: () => Promise<T>): Promise<T> {
    const closed = () => new ConveyError("CLOSED", "this balancer was closed");
    if (this.#closed) throw closed();
    const givenUp = new Promise<never>((_, reject) => {
      this.#giveUp = () => reject(closed());
    });
    try {
      return await Promise.race([read(), givenUp]);
    } finally {
      this.#giveUp = undefined;
    }
  }

  #record(status: ReloadStatus, changes: Change[], warnings: Problem[]): void {
    this.#last = status;
    this.#onStatus(status, changes, warnings);
  }
}

function told(result: ReloadResult["result"], changes: readonly Change[]): string {
  if (result === "unchanged") return "nothing has changed";
  const text = describeChanges(changes);
  return text === "" ? "the new configuration is in service" : `the new configuration is in service: ${text}`;
}

/** One error for everything wrong with a configuration; its message tells the first and how many more. */
export function invalidConfig(problems: Problem[]): ConveyError {
  const errors = problems.filter((p) => p.severity === "error");
  const first = errors[0];
  const more = errors.length > 1 ? ` (and ${errors.length - 1} more)` : "";
  const text =
    first === undefined
      ? "the configuration is invalid"
      : `${first.file === undefined ? formatProblem(first) : formatProblems([first])}${more}`;
  return new ConveyError("CONFIG_INVALID", text, {
    problems,
    ...(first === undefined || first.path === "" ? {} : { field: first.path }),
  });
}
