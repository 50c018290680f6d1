/**
 * Tells when the content of a file has changed. The *directory* is watched, since that is what sees an
 * editor's rename-over, a file removed and made again, and the `..data` link by which Kubernetes swaps a
 * ConfigMap. What becomes of other names there costs nothing but being told: a log may be written beside it. A slow
 * poll backs this up where no event comes: the target of a link elsewhere was edited, the directory was replaced,
 * inotify ran out.
 */
import { type FSWatcher, watch } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { EMPTY, hashFiles, identify, identifyIncluded, MISSING, UNKNOWN } from "./content.ts";

/** What became of the file. */
export type FileChange = "changed" | "missing";

/**
 * Called once for each new content, and once when the file is gone; resolves with whether the content is in
 * service. One that was refused is offered again when it is saved again: the reason may be gone by then.
 */
export type FileListener = (change: FileChange) => Promise<boolean>;

/** Quiet this long, a file counts as written. */
const DEBOUNCE_MS = 100;
/** Looked at this late even if it is never quiet. */
const DEBOUNCE_LIMIT_MS = 1000;
/** Looked at again this long after: an event may come before what it tells of can be read. */
const SECOND_LOOK_MS = 500;
/** Gone or empty this long, a file is not just being replaced. */
const GRACE_MS = 500;
const POLL_MS = 3000;
/** A file that is written all the time has to be taken as it is after so many looks. */
const MAX_LOOKS = 10;

/** See the module's head. Keeps no process alive. */
export class ConfigWatcher {
  readonly #file: string;
  readonly #listener: FileListener;
  #watchers: FSWatcher[] = [];
  #directoryId = "";
  #fileId = "";
  #seen: string;
  /** The file, by inode and time, whose content was refused. */
  #refused: string | undefined;
  #debounce: NodeJS.Timeout | undefined;
  #secondLook: NodeJS.Timeout | undefined;
  #firstEventAt = 0;
  #poll: NodeJS.Timeout | undefined;
  /** Folders in which included files come and go, besides the file's own. */
  #folders: readonly string[] = [];
  #looking = false;
  #lookAgain = false;
  #closed = false;

  private constructor(file: string, hash: string, listener: FileListener) {
    this.#file = resolve(file);
    this.#listener = listener;
    this.#seen = hash;
  }

  /** Watches from now on; `hash` is the sha256 (hex) of the content already known. */
  static async start(file: string, hash: string, listener: FileListener): Promise<ConfigWatcher> {
    const watcher = new ConfigWatcher(file, hash, listener);
    await watcher.#watchDirectory();
    watcher.#poll = setInterval(() => void watcher.#check(), POLL_MS);
    watcher.#poll.unref();
    // What was written between reading and watching.
    watcher.#touched();
    return watcher;
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#debounce);
    clearTimeout(this.#secondLook);
    clearInterval(this.#poll);
    this.#unwatch();
  }

  #unwatch(): void {
    for (const watcher of this.#watchers) watcher.close();
    this.#watchers = [];
  }

  async #watchDirectory(): Promise<void> {
    const directory = dirname(this.#file);
    this.#directoryId = await this.#directories();
    this.#unwatch();
    // Closed meanwhile: nobody would close another one.
    if (this.#closed) return;
    const own: (string | null)[] = [null, basename(this.#file), "..data"];
    if (!this.#folders.includes(directory)) this.#watch(directory, (name) => own.includes(name));
    for (const folder of this.#folders) this.#watch(folder, () => true);
  }

  #watch(directory: string, isRelevant: (name: string | null) => boolean): void {
    try {
      const watcher = watch(directory, { persistent: false }, (_, name) => {
        if (isRelevant(name)) this.#touched();
      });
      // The poll goes on without it.
      watcher.on("error", () => this.#touched());
      this.#watchers.push(watcher);
    } catch {
      // Gone, or inotify ran out: neither keeps the poll from seeing changes.
    }
  }

  /** The poll: cheap signs that something may have changed. */
  async #check(): Promise<void> {
    const directoryId = await this.#directories();
    if (this.#closed) return;
    if (directoryId !== "" && directoryId !== this.#directoryId) {
      await this.#watchDirectory();
      this.#touched();
    }
    const fileId = await this.#identify();
    if (fileId !== this.#fileId) this.#touched();
    this.#fileId = fileId;
  }

  #touched(): void {
    if (this.#closed) return;
    const now = performance.now();
    if (this.#debounce === undefined) this.#firstEventAt = now;
    clearTimeout(this.#debounce);
    clearTimeout(this.#secondLook);
    const wait = Math.min(DEBOUNCE_MS, this.#firstEventAt + DEBOUNCE_LIMIT_MS - now);
    this.#debounce = setTimeout(
      () => {
        this.#debounce = undefined;
        void this.#look();
        this.#secondLook = setTimeout(() => void this.#look(), SECOND_LOOK_MS);
        this.#secondLook.unref();
      },
      Math.max(0, wait),
    );
    this.#debounce.unref();
  }

  async #look(): Promise<void> {
    if (this.#looking) {
      this.#lookAgain = true;
      return;
    }
    this.#looking = true;
    try {
      do {
        this.#lookAgain = false;
        let { id, hash } = await this.#fingerprint();
        for (
          let waited = 0;
          (hash === MISSING || hash === EMPTY) && waited < GRACE_MS;
          waited += DEBOUNCE_MS
        ) {
          await sleep(DEBOUNCE_MS, undefined, { ref: false });
          ({ id, hash } = await this.#fingerprint());
        }
        // For a reason of this process: the next poll tries again.
        if (hash === UNKNOWN) this.#fileId = "";
        if (this.#closed || hash === UNKNOWN) continue;
        const again = this.#refused !== undefined && this.#refused !== id;
        if (hash === this.#seen && !again) continue;
        this.#seen = hash;
        this.#refused = undefined;
        void this.#offer(hash === MISSING ? "missing" : "changed", id);
      } while (this.#lookAgain && !this.#closed);
    } finally {
      this.#looking = false;
    }
  }

  /** The content and the files, by inode and time, that had it: one that is being written is looked at again. */
  async #fingerprint(): Promise<{ id: string; hash: string }> {
    let id = await this.#identify();
    for (let tries = 0; ; tries++) {
      const hash = await this.#hash();
      const after = await this.#identify();
      if (after === id || tries === MAX_LOOKS) return { id: after, hash };
      id = after;
    }
  }

  /** Of the content of all files. */
  async #hash(): Promise<string> {
    const { hash, folders } = await hashFiles(this.#file);
    if (folders !== undefined && !isDeepStrictEqual(folders, this.#folders)) {
      this.#folders = folders;
      if (!this.#closed) await this.#watchDirectory();
    }
    return hash;
  }

  /** By inode and time, of the file and of those it includes. */
  async #identify(): Promise<string> {
    const own = await identify(this.#file, true);
    return this.#folders.length === 0 ? own : `${own} ${await identifyIncluded(this.#file)}`;
  }

  async #directories(): Promise<string> {
    const all = [dirname(this.#file), ...this.#folders];
    return (await Promise.all(all.map((directory) => identify(directory)))).join(" ").trim();
  }

  async #offer(change: FileChange, id: string): Promise<void> {
    const served = await this.#listener(change).catch(() => false);
    if (!served && change === "changed") this.#refused = id;
  }
}
