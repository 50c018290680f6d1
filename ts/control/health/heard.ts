/** What a server has said so far: bounded, and searched once however small the pieces are in which it comes. */

/** Bytes of an answer that are read at most. */
export const MOST_HEARD = 64 * 1024;

/** See the module's head. */
export class Heard {
  #bytes = Buffer.alloc(0);
  #length = 0;
  /** Before it no text begins that was looked for. */
  #searched = 0;

  get bytes(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  get length(): number {
    return this.#length;
  }

  /** Whether nothing more is taken. */
  get full(): boolean {
    return this.#length >= MOST_HEARD;
  }

  add(chunk: Uint8Array): void {
    const taken = chunk.subarray(0, MOST_HEARD - this.#length);
    const needed = this.#length + taken.length;
    if (needed > this.#bytes.length) {
      const grown = Buffer.alloc(Math.min(MOST_HEARD, Math.max(1024, needed, this.#bytes.length * 2)));
      this.#bytes.copy(grown, 0, 0, this.#length);
      this.#bytes = grown;
    }
    this.#bytes.set(taken, this.#length);
    this.#length = needed;
  }

  /** Whether `text` stands in it; to be asked for the same text each time. An empty one stands in any answer. */
  has(text: Uint8Array): boolean {
    if (text.length === 0) return this.#length > 0;
    const found = this.bytes.indexOf(text, this.#searched);
    this.#searched = Math.max(0, this.#length - text.length + 1);
    return found >= 0;
  }
}
