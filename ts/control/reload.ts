/**
 * Reloads one after another. Requests to read the file that come while one waits its turn share it, so any
 * number of them a second costs at most one read at a time.
 *
 * A reload may be a trial: what was in service before is again when nobody confirms in time. Reloads in between
 * belong to the same trial, so it is the last confirmed configuration that comes back.
 */
import type { Problem } from "../config/problem.ts";
import type { Config } from "../config/schema.ts";
import { ConveyError } from "../native/index.ts";
import { Confirmation } from "./confirmation.ts";
import { type Change, describeChanges } from "./diff.ts";
import type { ReloadEvent } from "./events.ts";
import { invalidConfig } from "./invalid-config.ts";
import type { ReloadResult } from "./options.ts";
import type { Turns } from "./turns.ts";

/** Where a configuration came from. */
export type ReloadSource = "file" | "update";

/** How the latest reload ended. */
export type ReloadStatus = {
  at: Date;
  result: ReloadEvent["result"];
  source: ReloadSource;
  message: string;
  /** When it is rolled back unless it is confirmed before. */
  confirm_by?: Date;
  /** The file says something else than what is in service. */
  file_differs?: true;
};

/** A configuration that was read and judged. */
export type Candidate =
  | { ok: true; config: Config; warnings: Problem[] }
  | { ok: false; problems: Problem[] };

/** What putting a configuration in service did. */
export type Applied = {
  result: "applied" | "unchanged";
  changes: Change[];
  warnings: Problem[];
  /** The HTTP server takes another token than before, which no setting shows. */
  newToken?: boolean;
};

/** What is reloaded; every call throws ConveyError or has done what it says. */
export type Reloadable = {
  /** Puts a configuration in service; with `trial` in such a way that it can be taken back. */
  put: (config: Config, trial: boolean) => Promise<Applied>;
  /** Whether what could be gone back to is in service. */
  readonly isBack: boolean;
  keep: () => void;
  goBack: () => Promise<Applied>;
};

/** Told of every reload that has ended. */
export type OnReload = (status: ReloadStatus, changes: Change[], warnings: Problem[]) => void;

/** What waits for a confirmation at most, and at least. */
const CONFIRM_MS = { least: 1, most: 86_400_000 };

/** See the module's head. */
export class Reloader {
  readonly #target: Reloadable;
  readonly #turns: Turns;
  readonly #onStatus: OnReload;
  readonly #confirmation: Confirmation;
  /** Whether a file is what reloads read. */
  readonly #hasFile: boolean;
  #nextFileReload: Promise<ReloadResult> | undefined;
  #last: ReloadStatus | undefined;
  #fileDiffers = false;
  #closed = false;
  #giveUp: (() => void) | undefined;

  constructor(target: Reloadable, turns: Turns, hasFile: boolean, onStatus: OnReload) {
    this.#target = target;
    this.#turns = turns;
    this.#hasFile = hasFile;
    this.#onStatus = onStatus;
    this.#confirmation = new Confirmation((by) => void this.#turns.take(() => this.#rollBack(by)));
  }

  /** How the latest one ended. */
  get last(): ReloadStatus | undefined {
    return this.#last;
  }

  /** Reads with `read` when it is this one's turn; rejects with `CONFIG_INVALID` and the problems. */
  async fromFile(read: () => Promise<Candidate>, confirmMs?: number): Promise<ReloadResult> {
    if (confirmMs !== undefined) {
      const { least, most } = CONFIRM_MS;
      if (!(Number.isInteger(confirmMs) && confirmMs >= least && confirmMs <= most)) {
        throw new ConveyError(
          "CONFIG_INVALID",
          `confirmMs: ${confirmMs} is no integer from ${least} to ${most}`,
        );
      }
      return await this.#turns.take(() => this.#run("file", read, confirmMs));
    }
    this.#nextFileReload ??= this.#turns.take(() => {
      this.#nextFileReload = undefined;
      return this.#run("file", read);
    });
    return await this.#nextFileReload;
  }

  /** Applies a configuration made by a program, in its turn. */
  fromUpdate(candidate: Candidate): Promise<ReloadResult> {
    return this.#turns.take(() => this.#run("update", () => Promise.resolve(candidate)));
  }

  /** Notes a reload that failed before there was anything to read. */
  reject(source: ReloadSource, message: string): void {
    if (source === "file") this.#fileDiffers = true;
    this.#record("rejected", source, message);
  }

  /** @throws ConveyError `NOT_FOUND` when nothing waits for it. */
  confirm(): ReloadResult {
    if (this.#confirmation.by === undefined) {
      const late = this.#last?.result === "rolled_back" ? "; the latest one was rolled back" : "";
      throw new ConveyError("NOT_FOUND", `no reload waits for a confirmation${late}`);
    }
    this.#confirmation.end();
    this.#target.keep();
    const message = "the configuration in service stays";
    this.#record("confirmed", this.#last?.source ?? "file", message);
    return { result: "applied", message, changes: [], warnings: [] };
  }

  /**
   * For good: a file that is being read is waited for no longer, for what it says would not be put in service; what
   * is tried is not rolled back.
   */
  close(): void {
    this.#closed = true;
    this.#confirmation.end();
    this.#giveUp?.();
  }

  async #run(
    source: ReloadSource,
    read: () => Promise<Candidate>,
    confirmMs?: number,
  ): Promise<ReloadResult> {
    try {
      const candidate = await this.#unlessClosed(read);
      if (!candidate.ok) throw invalidConfig(candidate.problems);
      const {
        result,
        changes,
        warnings: left,
        newToken,
      } = await this.#target.put(candidate.config, confirmMs !== undefined);
      if (source === "file" || result === "applied") this.#fileDiffers = this.#hasFile && source !== "file";
      this.#await(result, confirmMs);
      const by = this.#confirmation.by;
      const message = told({ result, changes, newToken }, by, confirmMs !== undefined);
      const warnings = [...candidate.warnings, ...left];
      this.#record(result, source, message, changes, warnings);
      return {
        result,
        message,
        changes,
        warnings,
        ...(by === undefined ? {} : { confirm_by: by.toISOString() }),
      };
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.reject(source, message);
      throw error;
    }
  }

  /** After a configuration was put in service: is it a trial, does one go on, or has it ended? */
  #await(result: Applied["result"], confirmMs: number | undefined): void {
    if (this.#closed || result === "unchanged") return;
    if (this.#target.isBack) {
      this.#confirmation.end();
      this.#target.keep();
    } else if (confirmMs !== undefined) {
      this.#confirmation.begin(confirmMs);
    }
  }

  async #rollBack(by: Date): Promise<void> {
    const source = this.#last?.source ?? "file";
    // Confirmed meanwhile, or another reload waits anew.
    if (this.#closed || this.#confirmation.by !== by) return;
    this.#confirmation.end();
    try {
      const { changes } = await this.#target.goBack();
      this.#fileDiffers = this.#hasFile;
      const differs = this.#hasFile ? ", which is not what the file says" : "";
      const what = describeChanges(changes);
      const message = `nobody confirmed it; the configuration of before is in service${differs}${what && `: ${what}`}`;
      this.#record("rolled_back", source, message, changes);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.#record(
        "rejected",
        source,
        `nobody confirmed the latest one, and it cannot be rolled back: ${why}`,
      );
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

  #record(
    result: ReloadStatus["result"],
    source: ReloadSource,
    message: string,
    changes: Change[] = [],
    warnings: Problem[] = [],
  ): void {
    const by = this.#confirmation.by;
    this.#last = {
      at: new Date(),
      result,
      source,
      message,
      ...(by === undefined ? {} : { confirm_by: by }),
      ...(this.#fileDiffers ? { file_differs: true } : {}),
    };
    this.#onStatus(this.#last, changes, warnings);
  }
}

function told(
  { result, changes, newToken }: Pick<Applied, "result" | "changes"> & { newToken: boolean | undefined },
  by: Date | undefined,
  asked: boolean,
): string {
  const until = by === undefined ? "" : `; rolls back at ${by.toISOString()} unless it is confirmed`;
  if (result === "unchanged") {
    return `nothing has changed${asked && by === undefined ? ", so there is nothing to confirm" : until}`;
  }
  const text = [describeChanges(changes), newToken ? "the token of the HTTP server is another one" : ""]
    .filter((part) => part !== "")
    .join(", ");
  return `the new configuration is in service${text && `: ${text}`}${until}`;
}
