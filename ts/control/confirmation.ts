/** A configuration that is only tried: until when somebody has to confirm it. */

/** See the module's head. Keeps no process alive. */
export class Confirmation {
  readonly #late: (by: Date) => void;
  #timer: NodeJS.Timeout | undefined;
  #by: Date | undefined;

  /** `late` is called when nobody has confirmed by then; `by` stays until `end()`. */
  constructor(late: (by: Date) => void) {
    this.#late = late;
  }

  /** When it is too late; undefined when nothing waits. */
  get by(): Date | undefined {
    return this.#by;
  }

  /** Waits so long from now on, instead of what was waited for. */
  begin(ms: number): void {
    this.end();
    const by = new Date(Date.now() + ms);
    this.#by = by;
    this.#timer = setTimeout(() => this.#late(by), ms);
    this.#timer.unref();
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#by = undefined;
  }
}
