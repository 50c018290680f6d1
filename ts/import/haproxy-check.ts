/** Health checks: `option httpchk`, `option tcp-check` and their rules, as `[backends.<name>.health_check]`. */
import type { Table } from "./draft.ts";
import type { Line } from "./haproxy-lines.ts";

type Left = (line: number, message: string) => void;

/** Sets what a check is. `option` is the line that turns it on, if there is one. */
export function readCheck(table: Table, option: Line | undefined, rules: readonly Line[], left: Left): void {
  const kind = option?.words[1];
  const fitting = kind === "httpchk" ? "http-check" : kind === "tcp-check" ? "tcp-check" : "";
  for (const { words, number } of rules) {
    if (words[0] !== fitting) left(number, "not taken over: no option of this section asks for such checks");
  }
  const own = rules.filter(({ words }) => words[0] === fitting);
  if (option !== undefined && kind === "httpchk") httpCheck(table, option, own, left);
  else if (option !== undefined && own.length > 0) exchange(table, option, own, left);
}

function httpCheck(table: Table, { words, number }: Line, rules: readonly Line[], left: Left): void {
  table.set("type", "http", number);
  const [first = "", second] = words.slice(2);
  const [method, uri] =
    second === undefined && first.startsWith("/") ? ["OPTIONS", first] : [first || "OPTIONS", second ?? "/"];
  table.set("method", method, words.length > 2 ? number : undefined);
  table.set("path", uri, words.length > 2 ? number : undefined);
  // Before there was http-check send, headers stood behind the version.
  const host = /\r?\nhost:[ \t]*([^\r\n]+)/i.exec(words.slice(4).join(" "))?.[1];
  if (host !== undefined) table.set("host", host.trim(), number);
  for (const rule of rules) httpRule(table, rule, left);
}

function httpRule(table: Table, { words, number }: Line, left: Left): void {
  const [, what, ...rest] = words;
  if (what === "send") {
    for (let i = 0; i < rest.length; i += 2) {
      const [word = "", value = ""] = rest.slice(i, i + 2);
      if (word === "meth") table.set("method", value, number);
      else if (word === "uri") table.set("path", value, number);
      else if (word === "hdr" && value.toLowerCase() === "host")
        table.set("host", rest[++i + 1] ?? "", number);
      else if (word !== "ver") {
        left(number, `"${word} ${value}" is not taken over: a check has a method, a path and a Host`);
        if (word === "hdr") i += 1;
      }
    }
  } else if (what === "expect" && rest[0] === "status") {
    table.set("expect", (rest[1] ?? "").trim(), number);
  } else if (what === "expect" && rest[0] === "string") {
    table.set("expect_body", bytes(rest[1] ?? "", number, left), number);
  } else {
    left(
      number,
      "not taken over: a check is one request, and a status or a text of the answer is what it expects",
    );
  }
}

/** One `send` and one `expect string` in this order are an exchange; more is none that can be had. */
function exchange(table: Table, option: Line, rules: readonly Line[], left: Left): void {
  const steps = rules.filter(({ words }) => words[1] !== "connect" || words.length > 2);
  const sends = steps.filter(({ words }) => words[1] === "send");
  const expects = steps.filter(({ words }) => words[1] === "expect" && words[2] === "string");
  const other = steps.filter((step) => !sends.includes(step) && !expects.includes(step));
  const [expect] = expects;
  const late = expect === undefined ? [] : sends.filter(({ number }) => number > expect.number);
  const surplus = [...other, ...expects.slice(1), ...late];
  for (const { number } of surplus) {
    left(number, "not taken over: a check sends one text and expects one in the answer");
  }
  const send = sends.filter((line) => !surplus.includes(line));
  if (send.length === 0 && expect === undefined) return;
  table.set("type", "send_expect", option.number);
  const text = send.map(({ words }) => words[2] ?? "").join("");
  if (send.length > 0) table.set("send", bytes(text, (send[0] as Line).number, left), send[0]?.number);
  if (expect !== undefined)
    table.set("expect", bytes(expect.words[3] ?? "", expect.number, left), expect.number);
}

/** With what cannot be typed as escapes. */
function bytes(text: string, line: number, left: Left): string | undefined {
  if (/[^\p{ASCII}]/u.test(text)) {
    left(line, "the text is not taken over: write bytes beyond ASCII as \\xHH");
    return undefined;
  }
  const named: Readonly<Record<string, string>> = { "\r": "\\r", "\n": "\\n", "\t": "\\t", "\\": "\\\\" };
  return text.replace(
    /[\p{Cc}\\]/gu,
    (c) => named[c] ?? `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}
