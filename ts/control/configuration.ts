/**
 * What a balancer is to serve: the configuration as its file or its program gave it, and over it the servers that
 * were changed at run time. Both change together, once the data plane has what they come to.
 */
import { isDeepStrictEqual } from "node:util";
import { problemOf } from "../config/check.ts";
import { serverKey } from "../config/lower.ts";
import type { Problem } from "../config/problem.ts";
import type { Config } from "../config/schema.ts";
import { judgeServers } from "../config/servers.ts";
import { invalidConfig } from "./invalid-config.ts";
import { type Edit, edit, NO_CHANGES, type Overlay, rebase, withChanges } from "./overlay.ts";
import type { Applied } from "./reload.ts";
import { copyRecords, type ServerRecords } from "./states.ts";

/** What was in service before a configuration that is only tried, and what operators made of its servers by then. */
type Saved = {
  base: Config;
  overlay: Overlay;
  records: ServerRecords;
  /** Servers changed at run time since, by `serverKey()`. */
  since: Map<string, Edit>;
};

/** Puts a configuration in service, or throws and leaves the old one; servers that come back are as in `earlier`. */
export type Install = (config: Config, earlier?: ServerRecords) => Promise<Applied>;

/** Where a problem with a server comes from that no file names. */
export const AT_RUN_TIME = "a change at run time";

/** See the module's head. One call at a time. */
export class Configuration {
  readonly #install: Install;
  readonly #records: () => ServerRecords;
  #base: Config;
  #overlay: Overlay = NO_CHANGES;
  #saved: Saved | undefined;

  /** `records` tells what is known of the servers in service. */
  constructor(base: Config, install: Install, records: () => ServerRecords) {
    this.#base = base;
    this.#install = install;
    this.#records = records;
  }

  /** The configuration without what was changed at run time. */
  get base(): Config {
    return this.#base;
  }

  get overlay(): Overlay {
    return this.#overlay;
  }

  /** What would serve if `base` were the configuration, and what the rules say of servers changed at run time in it. */
  under(base: Config): { config: Config; overlay: Overlay; problems: Problem[] } {
    const overlay = rebase(this.#overlay, base);
    const config = withChanges(base, overlay);
    const findings = overlay.size === 0 ? [] : judgeServers(base, config);
    return { config, overlay, problems: findings.map((finding) => problemOf(finding, AT_RUN_TIME)) };
  }

  /**
   * With `trial`, what is in service now can be gone back to, unless something already can.
   *
   * @throws ConveyError and leaves everything as it was.
   */
  async put(base: Config, trial: boolean): Promise<Applied> {
    const { config, overlay, problems } = this.under(base);
    if (problems.some(({ severity }) => severity === "error")) throw invalidConfig(problems);
    const [before, overlayBefore] = [this.#base, this.#overlay];
    const records = copyRecords(this.#records());
    const applied = await this.#install(config);
    if (trial && applied.result === "applied") {
      this.#saved ??= { base: before, overlay: overlayBefore, records, since: new Map() };
    }
    this.#base = base;
    this.#overlay = overlay;
    return applied;
  }

  /**
   * With these servers changed.
   *
   * @throws ConveyError and leaves everything as it was.
   */
  async change(edits: readonly Edit[]): Promise<Applied> {
    const overlay = edit(this.#base, this.#overlay, edits);
    const config = withChanges(this.#base, overlay);
    const findings = judgeServers(withChanges(this.#base, this.#overlay), config);
    const problems = findings.map((finding) => problemOf(finding));
    if (problems.some(({ severity }) => severity === "error")) throw invalidConfig(problems);
    const { result, changes } = await this.#install(config);
    this.#overlay = overlay;
    for (const it of edits) this.#saved?.since.set(serverKey(it.backend, it.server), it);
    return { result, changes, warnings: problems };
  }

  /** Whether what is in service is what could be gone back to, but for changes at run time. */
  get isBack(): boolean {
    return this.#saved !== undefined && isDeepStrictEqual(this.#base, this.#saved.base);
  }

  /** What is in service stays. */
  keep(): void {
    this.#saved = undefined;
  }

  /**
   * Back to what was in service before; servers changed at run time since stay so where their backend exists.
   *
   * @throws ConveyError and leaves everything as it was.
   */
  async goBack(): Promise<Applied> {
    const saved = this.#saved;
    if (saved === undefined) return { result: "unchanged", changes: [], warnings: [] };
    const { base, records } = saved;
    const since = [...saved.since.values()].filter(({ backend }) => Object.hasOwn(base.backends, backend));
    const overlay = edit(base, saved.overlay, since);
    this.#saved = undefined;
    const applied = await this.#install(withChanges(base, overlay), records);
    this.#base = base;
    this.#overlay = overlay;
    return applied;
  }
}
