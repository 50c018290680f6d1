/**
 * The signals that steer a program that serves. They are caught from the first moment, before anything heavy is
 * loaded, so that one during the start is neither lost nor kills half-way.
 *
 * SIGTERM and SIGINT end, a second one at once; SIGHUP reloads; SIGUSR1 opens logs anew, and not Node's inspector to
 * whoever may send a signal. When a terminal is closed its processes get SIGHUP
 * too: then it ends the program, as nobody can see or steer it any more.
 */
import { closeSync } from "node:fs";
import { isatty } from "node:tty";

const ENDING = ["SIGTERM", "SIGINT"] as const;
const STDIO = [0, 1, 2] as const;

/** See the module's head. */
export class Signals {
  /** The first and the second signal that ask for the end. */
  readonly first: Promise<NodeJS.Signals>;
  readonly second: Promise<NodeJS.Signals>;
  readonly #terminals = STDIO.filter((descriptor) => isatty(descriptor));
  readonly #waiting: ((signal: NodeJS.Signals) => void)[] = [];
  #received: NodeJS.Signals[] = [];
  #reload: (() => void) | undefined;
  #reloadAsked = false;
  #reopenLogs: () => void = () => undefined;

  constructor() {
    const next = () => new Promise<NodeJS.Signals>((resolve) => this.#waiting.push(resolve));
    this.first = next();
    this.second = next();
    for (const name of ENDING) process.on(name, this.#end);
    process.on("SIGHUP", this.#hangUp);
    process.on("SIGUSR1", this.#reopen);
  }

  /** Whether the end has been asked for. */
  get ending(): boolean {
    return this.#received.length > 0;
  }

  /** Calls `reload` at each SIGHUP from now on, and at once when one came before. */
  onReload(reload: () => void): void {
    this.#reload = reload;
    if (!this.#reloadAsked) return;
    this.#reloadAsked = false;
    reload();
  }

  /** Calls `reopen` at each SIGUSR1 from now on; at the start a log is opened anyway. */
  onReopen(reopen: () => void): void {
    this.#reopenLogs = reopen;
  }

  /** For commands that do not serve: every signal does again what it does by default, one that came as well. */
  release(): void {
    for (const name of ENDING) process.off(name, this.#end);
    process.off("SIGHUP", this.#hangUp);
    process.off("SIGUSR1", this.#reopen);
    const [first] = this.#reloadAsked ? (["SIGHUP"] as const) : this.#received;
    if (first) process.kill(process.pid, first);
  }

  /** Descriptors of standard input, output and error whose terminal was closed. */
  goneTerminals(): number[] {
    return this.#terminals.filter((descriptor) => !isatty(descriptor));
  }

  readonly #end = (signal: NodeJS.Signals): void => {
    this.#received.push(signal);
    this.#waiting.shift()?.(signal);
  };

  readonly #reopen = (): void => this.#reopenLogs();

  readonly #hangUp = (): void => {
    if (this.goneTerminals().length > 0) this.#end("SIGHUP");
    else if (this.#reload) this.#reload();
    else this.#reloadAsked = true;
  };
}

let caught: Signals | undefined;

/** The signals of this process, caught since the first call. */
export function signals(): Signals {
  caught ??= new Signals();
  return caught;
}

/** Ends the process with this code. */
export function endProcess(code: number): never {
  // At its end Node resets the terminals it began with, and aborts over one that is gone.
  for (const descriptor of signals().goneTerminals()) closeSync(descriptor);
  process.exit(code);
}
