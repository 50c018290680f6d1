/** An nginx.conf as directives, with the lines they begin at: comments, quotes and blocks as nginx reads them. */

export interface Directive {
  name: string;
  args: readonly string[];
  /** From 1. */
  line: number;
  /** What stands in braces behind it. */
  block?: Directive[];
}

type Left = (line: number, message: string) => void;

/** Deeper is no nginx.conf. */
const MAX_DEPTH = 16;

interface Token {
  kind: "word" | "{" | "}" | ";";
  text: string;
  line: number;
}

export function nginxDirectives(text: string, left: Left): Directive[] {
  const top: Directive[] = [];
  const open: Directive[][] = [top];
  let words: Token[] = [];
  /** Blocks within blocks that are too deep are passed over. */
  let passedOver = 0;
  const end = (): Directive | undefined => {
    const [name, ...args] = words;
    words = [];
    return name && { name: name.text, args: args.map((word) => word.text), line: name.line };
  };
  for (const token of tokens(text, left)) {
    if (token.kind === "word") {
      words.push(token);
      continue;
    }
    const current = open.at(-1) as Directive[];
    if (token.kind === "}") {
      const [rest] = words;
      if (rest !== undefined) left(rest.line, `"${rest.text}" is not taken over: no ";" ends it`);
      words = [];
      if (passedOver > 0) passedOver -= 1;
      else if (open.length > 1) open.pop();
      else left(token.line, 'a "}" without a "{" is passed over');
      continue;
    }
    const directive = end();
    if (token.kind === ";") {
      if (directive !== undefined && passedOver === 0) current.push(directive);
      continue;
    }
    const block: Directive[] = [];
    if (passedOver > 0 || open.length > MAX_DEPTH) {
      if (passedOver === 0) left(token.line, "not taken over: blocks stand too deep in each other");
      passedOver += 1;
      continue;
    }
    current.push({ ...(directive ?? { name: "", args: [], line: token.line }), block });
    open.push(block);
  }
  const [rest] = words;
  if (rest !== undefined) left(rest.line, `"${rest.text}" is not taken over: no ";" ends it`);
  if (open.length > 1 || passedOver > 0) left(lineCount(text), 'a "}" is missing at the end of the file');
  return top;
}

const lineCount = (text: string): number => text.trimEnd().split("\n").length;

function* tokens(text: string, left: Left): Generator<Token> {
  let line = 1;
  for (let i = 0; i < text.length; ) {
    const c = text[i] as string;
    if (c === "\n") line += 1;
    if (/\s/.test(c)) {
      i += 1;
    } else if (c === "#") {
      const end = text.indexOf("\n", i);
      i = end === -1 ? text.length : end;
    } else if (c === "{" || c === "}" || c === ";") {
      yield { kind: c, text: c, line };
      i += 1;
    } else {
      const word = readWord(text, i);
      if (word.open) left(line, "a quote does not end: what follows is not taken over");
      yield { kind: "word", text: word.text, line };
      line += word.lines;
      i = word.end;
    }
  }
}

/** From `start`, where a word begins; a quote is one only there, as with nginx. */
function readWord(text: string, start: number): { text: string; end: number; lines: number; open: boolean } {
  const first = text[start] as string;
  const quote = first === '"' || first === "'" ? first : "";
  const parts: string[] = [];
  let lines = 0;
  let i = quote === "" ? start : start + 1;
  for (; i < text.length; i++) {
    const c = text[i] as string;
    if (c === "\n") lines += quote === "" ? 0 : 1;
    if (quote === "" ? /[\s;{]/.test(c) && !(c === "{" && text[i - 1] === "$") : c === quote) break;
    if (c !== "\\" || i + 1 === text.length) {
      parts.push(c);
      continue;
    }
    const next = text[++i] as string;
    if (next === "\n") lines += 1;
    const named: Readonly<Record<string, string>> = { t: "\t", r: "\r", n: "\n" };
    parts.push(named[next] ?? (/["'\\\s;{}]/.test(next) ? next : `\\${next}`));
  }
  const open = quote !== "" && i >= text.length;
  return { text: parts.join(""), end: quote === "" ? i : i + 1, lines, open };
}
