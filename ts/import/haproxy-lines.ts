/** The lines of a haproxy.cfg as words: comments, quotes and escapes as HAProxy reads them. */

export interface Line {
  /** From 1. */
  number: number;
  words: readonly string[];
}

const ESCAPES: Readonly<Record<string, string>> = { n: "\n", r: "\r", t: "\t" };

/** Lines with words in them. `bad` gets the lines whose quotes do not end. */
export function haproxyLines(text: string, bad: (line: number) => void): Line[] {
  const lines: Line[] = [];
  text.split(/\r\n|\n/).forEach((line, index) => {
    const { words, open } = wordsOf(line);
    if (open) bad(index + 1);
    else if (words.length > 0) lines.push({ number: index + 1, words });
  });
  return lines;
}

function wordsOf(line: string): { words: string[]; open: boolean } {
  const words: string[] = [];
  let word: string | undefined;
  let quote = "";
  for (let i = 0; i < line.length; i++) {
    const c = line[i] as string;
    if (c === "\\" && quote !== "'") {
      const hex = /^x([0-9a-fA-F]{2})/.exec(line.slice(i + 1, i + 4))?.[1];
      const next = line[i + 1] ?? "";
      // Within double quotes a backslash stands for itself but before these.
      const literal = quote === '"' && !'\\"$'.includes(next) && !(next in ESCAPES) && hex === undefined;
      word = (word ?? "") + escaped(next, hex, literal);
      i += hex === undefined ? next.length : 3;
    } else if (quote !== "") {
      if (c === quote) quote = "";
      else word = (word ?? "") + c;
    } else if (c === '"' || c === "'") {
      quote = c;
      word ??= "";
    } else if (c === "#") {
      break;
    } else if (c === " " || c === "\t") {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else {
      word = (word ?? "") + c;
    }
  }
  if (word !== undefined) words.push(word);
  return { words, open: quote !== "" };
}

function escaped(next: string, hex: string | undefined, literal: boolean): string {
  if (hex !== undefined) return String.fromCharCode(Number.parseInt(hex, 16));
  if (literal) return `\\${next}`;
  return ESCAPES[next] ?? next;
}
