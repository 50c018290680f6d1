/** Conditions of a HAProxy frontend that are understood: who the client is, and which name a ClientHello asks for. */
import type { Line } from "./haproxy-lines.ts";
import { type AccessRule, accessLists } from "./networks.ts";

type Left = (line: number, message: string) => void;

/** Connections whose ClientHello asks for one of these names go to the backend. */
export interface SniRule {
  names: string[];
  backend: string;
  line: number;
}

interface Condition {
  kind: "src" | "sni" | "hello";
  values: readonly string[];
  negated: boolean;
}

/** The ACLs of a section, by name. */
export class Acls {
  readonly #known = new Map<string, { conditions: (Condition | undefined)[]; size: number }>();
  readonly #used = new Set<string>();
  readonly #lines: Line[] = [];
  /** Values that rules may still name: many rules with long lists would fill the memory. */
  #values = 200_000;

  add(line: Line): void {
    const name = line.words[1] ?? "";
    const acl = this.#known.get(name) ?? { conditions: [], size: 0 };
    acl.conditions.push(readTest(line.words.slice(2)));
    acl.size += line.words.length;
    this.#known.set(name, acl);
    this.#lines.push(line);
  }

  /** What stands behind `if` or `unless`; undefined for what is not understood. */
  read(words: readonly string[]): Condition | undefined {
    const unless = words[0] === "unless";
    const condition = this.#read(words.slice(1));
    return condition && { ...condition, negated: condition.negated !== unless };
  }

  #read(words: readonly string[]): Condition | undefined {
    if (words[0] === "{" && words.indexOf("}") === words.length - 1) return readTest(words.slice(1, -1));
    const terms = words.filter((word) => word !== "or" && word !== "||");
    // Terms side by side must all hold, which lists cannot say.
    if (terms.length === 0 || words.length !== terms.length * 2 - 1) return undefined;
    const negated = (terms[0] as string).startsWith("!");
    if (negated && terms.length > 1) return undefined;
    const conditions: (Condition | undefined)[] = [];
    for (const term of terms) {
      const name = term.replace(/^!/, "");
      this.#used.add(name);
      const known = this.#known.get(name);
      this.#values -= known?.size ?? 1;
      if (this.#values < 0) return undefined;
      conditions.push(...(known?.conditions ?? [undefined]));
    }
    const [first] = conditions;
    if (first === undefined || conditions.some((other) => other?.kind !== first.kind || other.negated)) {
      return undefined;
    }
    const values = conditions.flatMap((other) => other?.values ?? []);
    return { kind: first.kind, values, negated };
  }

  /** Tells of those that nothing uses, or that are not understood. */
  tell(left: Left): void {
    for (const { words, number } of this.#lines) {
      if (!this.#used.has(words[1] ?? "")) left(number, "not taken over: no rule that is understood uses it");
      else if (readTest(words.slice(2)) === undefined) {
        left(
          number,
          "not taken over: of conditions, src with networks and req.ssl_sni with names are understood",
        );
      }
    }
  }
}

const SNI = /^req[._]ssl_sni(,lower)?$/;

function readTest(words: readonly string[]): Condition | undefined {
  const [fetch = "", ...rest] = words;
  if (/^req[._]ssl_hello_type$/.test(fetch)) return { kind: "hello", values: rest, negated: false };
  if (fetch === "src") {
    if (rest.length === 0 || rest.some((word) => word.startsWith("-"))) return undefined;
    return { kind: "src", values: rest, negated: false };
  }
  if (!SNI.test(fetch)) return undefined;
  const values: string[] = [];
  let ends = false;
  for (let i = 0; i < rest.length; i++) {
    const word = rest[i] as string;
    if (word === "-i") continue;
    if (word === "-m") {
      i += 1;
      if (rest[i] !== "str" && rest[i] !== "end") return undefined;
      ends = rest[i] === "end";
    } else if (word.startsWith("-")) {
      return undefined;
    } else {
      values.push(word);
    }
  }
  // An end that does not begin with a dot fits "notexample.com" too.
  if (values.length === 0 || (ends && values.some((value) => !value.startsWith(".")))) return undefined;
  return { kind: "sni", values: ends ? values.map((value) => `*${value}`) : values, negated: false };
}

export interface FrontendRules {
  lists: { allow: string[]; deny: string[] };
  accessLine?: number;
  acceptProxy?: { line: number; trusted: readonly string[] };
  sni: SniRule[];
  /** `use_backend` without a condition. */
  backend?: { name: string; line: number };
}

/** Reads `tcp-request` and `use_backend` lines. */
export function readRules(lines: readonly Line[], acls: Acls, left: Left): FrontendRules {
  const rules: AccessRule[] = [];
  let only: AccessRule[] = [];
  const result: FrontendRules = { lists: { allow: [], deny: [] }, sni: [] };
  for (const { words, number: line } of lines) {
    const at = words.findIndex((word) => word === "if" || word === "unless");
    const condition = at === -1 ? undefined : acls.read(words.slice(at));
    const always = at === -1;
    const what = words.slice(0, at === -1 ? words.length : at).join(" ");
    const backend = words[0] === "use_backend" ? (words[1] ?? "") : undefined;
    if (what === "tcp-request connection accept" || what === "tcp-request connection reject") {
      const allow = what.endsWith("accept");
      if (always) rules.push({ allow, network: "all", line });
      else if (condition?.kind !== "src") left(line, ONLY_SRC);
      else if (!condition.negated)
        for (const network of condition.values) rules.push({ allow, network, line });
      else if (allow || only.length > 0) left(line, ONLY_SRC);
      // Those in the list are asked the rules that follow, so the list itself comes last.
      else only = condition.values.map((network) => ({ allow: true, network, line }));
      result.accessLine ??= line;
    } else if (
      what === "tcp-request connection expect-proxy layer4" &&
      (always || condition?.kind === "src")
    ) {
      if (condition?.negated === true) left(line, ONLY_SRC);
      else result.acceptProxy = { line, trusted: condition?.values ?? [] };
    } else if (backend !== undefined && condition?.kind === "sni" && !condition.negated) {
      result.sni.push({ names: [...condition.values], backend, line });
    } else if (backend !== undefined && always) {
      result.backend ??= { name: backend, line };
    } else if (backend !== undefined) {
      left(line, "not taken over: a backend is chosen by the name in the ClientHello alone (req.ssl_sni)");
    } else if (!isPreread(what, always, condition)) {
      left(line, reasonOf(words));
    }
  }
  const end: AccessRule[] = only.length === 0 ? [] : [...only, { allow: false, network: "all", line: 0 }];
  result.lists = accessLists([...rules, ...end], (rule) =>
    left(rule.line, `"${rule.network}" is not taken over: it is not a network, such as 192.0.2.0/24`),
  );
  return result;
}

const ONLY_SRC =
  'not taken over: of conditions on connections, "src" with networks is understood, which becomes allow and deny';

/** What HAProxy needs to be told to wait for a ClientHello. */
const isPreread = (what: string, always: boolean, condition: Condition | undefined): boolean =>
  what.startsWith("tcp-request inspect-delay") ||
  (what === "tcp-request content accept" && (always || condition?.kind === "hello"));

function reasonOf(words: readonly string[]): string {
  const text = words.join(" ");
  if (/track-sc|sc\d?_|src_conn|stick/.test(text)) {
    return "not taken over: there are no tables to count in; limits of clients are max_connection_rate_per_client and limits.max_connections_per_client";
  }
  if (words[1] === "content")
    return "not taken over: what connections hold is not looked at but for a ClientHello";
  return "not taken over: there is nothing like it here";
}
