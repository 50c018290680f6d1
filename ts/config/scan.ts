/**
 * Where the keys and values of a TOML text stand, without building a tree of it: one pass, memory for the
 * places alone. The text must have been accepted by the TOML parser already; on any other, places are
 * missing or wrong but the pass ends.
 */

/** Called for every key in the order of the text; offsets are into the text, `value` of a header is its `[`. */
export type Visit = (path: readonly string[], place: { key: number; value: number }, last: boolean) => void;

/** Deeper parts of a key are not reported: no key of ours is, and a path of 50,000 parts costs its square. */
const MAX_DEPTH = 8;

export function scanToml(text: string, visit: Visit): void {
  new Scanner(text, visit).document();
}

interface Part {
  name: string;
  at: number;
}

class Scanner {
  readonly #text: string;
  readonly #visit: Visit;
  #at = 0;

  constructor(text: string, visit: Visit) {
    this.#text = text;
    this.#visit = visit;
  }

  document(): void {
    let table: string[] | undefined = [];
    while (this.#skipBlank()) {
      const before = this.#at;
      if (this.#text[this.#at] === "[") table = this.#header();
      else this.#pair(table);
      if (this.#at === before) this.#at++;
    }
  }

  #header(): string[] | undefined {
    const start = this.#at;
    this.#at += this.#text.startsWith("[[", start) ? 2 : 1;
    const parts = this.#key();
    while (this.#text[this.#at] === "]") this.#at++;
    return this.#report([], parts, start);
  }

  #pair(table: readonly string[] | undefined): void {
    const parts = this.#key();
    if (this.#text[this.#at] === "=") this.#at++;
    this.#skipSpaces();
    const path = this.#report(table, parts, this.#at);
    this.#value(path);
  }

  /** Tells of the parts of a key; returns the path with them, or undefined when it goes too deep. */
  #report(base: readonly string[] | undefined, parts: readonly Part[], value: number): string[] | undefined {
    if (base === undefined) return undefined;
    const path = [...base];
    for (const [index, { name, at }] of parts.entries()) {
      if (path.length === MAX_DEPTH) return undefined;
      path.push(name);
      this.#visit([...path], { key: at, value }, index === parts.length - 1);
    }
    return path;
  }

  #key(): Part[] {
    const parts: Part[] = [];
    for (;;) {
      this.#skipSpaces();
      const at = this.#at;
      const quote = this.#text[at];
      if (quote === '"' || quote === "'") {
        this.#string();
        const raw = this.#text.slice(at + 1, this.#at - 1);
        parts.push({ name: quote === '"' ? unescaped(raw) : raw, at });
      } else {
        while (/[A-Za-z0-9_-]/.test(this.#text[this.#at] ?? "")) this.#at++;
        parts.push({ name: this.#text.slice(at, this.#at), at });
      }
      this.#skipSpaces();
      if (this.#text[this.#at] !== ".") return parts;
      this.#at++;
    }
  }

  /** Passes a value; `path` is undefined where keys inside are not to be told of. Nesting costs no stack. */
  #value(path: string[] | undefined): void {
    // What is open: a table with the path its keys have, or an array with its own and how many items it had.
    const open: { end: "}" | "]"; path: string[] | undefined; items: number }[] = [];
    let own = path;
    for (;;) {
      const character = this.#text[this.#at];
      if (character === "{" || character === "[") {
        this.#at++;
        open.push({ end: character === "{" ? "}" : "]", path: own, items: 0 });
      } else if (character === '"' || character === "'") {
        this.#string();
      } else {
        while (this.#at < this.#text.length && !/[,\]}#\r\n]/.test(this.#text[this.#at] as string))
          this.#at++;
      }
      // Close what ends here and go on to the next member of what is still open.
      for (;;) {
        const inner = open.at(-1);
        if (inner === undefined) return;
        if (!this.#skipBlank()) return;
        const next = this.#text[this.#at];
        if (next === inner.end) {
          this.#at++;
          open.pop();
          continue;
        }
        if (next === ",") {
          this.#at++;
          continue;
        }
        own = inner.end === "}" ? this.#innerKey(inner.path) : this.#item(inner.path, inner.items++);
        break;
      }
    }
  }

  /** Tells of an item of an array, under its number. */
  #item(array: string[] | undefined, number: number): string[] | undefined {
    return this.#report(array, [{ name: String(number), at: this.#at }], this.#at);
  }

  #innerKey(table: string[] | undefined): string[] | undefined {
    const before = this.#at;
    const parts = this.#key();
    if (this.#text[this.#at] === "=") this.#at++;
    if (this.#at === before) this.#at++;
    this.#skipSpaces();
    return this.#report(table, parts, this.#at);
  }

  #string(): void {
    const quote = this.#text[this.#at] as string;
    const long = this.#text.startsWith(quote.repeat(3), this.#at);
    this.#at += long ? 3 : 1;
    for (; this.#at < this.#text.length; this.#at++) {
      const character = this.#text[this.#at];
      if (character === "\\" && quote === '"') this.#at++;
      else if (character === quote && !long) break;
      else if (character === quote && this.#text.startsWith(quote.repeat(3), this.#at)) {
        // Up to two more quotes belong to the text: the last three of a run end it.
        while (this.#text[this.#at + 3] === quote) this.#at++;
        this.#at += 2;
        break;
      }
    }
    this.#at++;
  }

  #skipSpaces(): void {
    while (this.#text[this.#at] === " " || this.#text[this.#at] === "\t") this.#at++;
  }

  /** Passes spaces, line ends and comments; false at the end of the text. */
  #skipBlank(): boolean {
    for (; this.#at < this.#text.length; this.#at++) {
      const character = this.#text[this.#at];
      if (character === "#") {
        const end = this.#text.indexOf("\n", this.#at);
        this.#at = end < 0 ? this.#text.length : end;
      } else if (character !== " " && character !== "\t" && character !== "\r" && character !== "\n") {
        return true;
      }
    }
    return false;
  }
}

const ESCAPES: Readonly<Record<string, string>> = {
  b: "\b",
  t: "\t",
  n: "\n",
  f: "\f",
  r: "\r",
  e: "\u001b",
};

function unescaped(raw: string): string {
  const sequence = /\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))/gs;
  return raw.replace(sequence, (_, two, four, eight, one) =>
    one === undefined
      ? String.fromCodePoint(Number.parseInt(two ?? four ?? eight, 16))
      : (ESCAPES[one] ?? one),
  );
}
