/** The sections of a haproxy.cfg, each proxy with the lines of the defaults it has. */
import type { Line } from "./haproxy-lines.ts";

export type ProxyKind = "frontend" | "backend" | "listen";

export interface ProxySection {
  kind: ProxyKind;
  name: string;
  line: number;
  /** What stands in the section itself. */
  own: Line[];
  defaults: Defaults;
}

export interface Defaults {
  line: number;
  lines: Line[];
}

export interface Sections {
  global: Line[];
  defaults: Defaults[];
  resolvers: Line[];
  proxies: ProxySection[];
}

/** Sections without a counterpart, with the reason. */
const OTHER: Readonly<Record<string, string>> = {
  peers: "balancers do not share what they know",
  mailers: "it sends no mail: watch `convey events` or the metrics",
  userlist: "it is not about HTTP: nothing here asks for a password",
  cache: "it is not about HTTP",
  program: "it starts no other programs",
  "http-errors": "it is not about HTTP",
  ring: "it writes its log to standard error or a file",
  "log-forward": "it forwards no logs",
  "fcgi-app": "it is not about HTTP",
  "crt-store": "TLS passes through, it is not ended here",
};

/** Sorts lines into sections; `left` is told of those that are left behind as a whole, once each. */
export function haproxySections(
  lines: readonly Line[],
  left: (line: number, message: string) => void,
): Sections {
  const sections: Sections = { global: [], defaults: [], resolvers: [], proxies: [] };
  const named = new Map<string, Defaults>();
  let current: Line[] | undefined;
  let latest: Defaults = { line: 1, lines: [] };
  for (const line of lines) {
    const [word = "", name = ""] = line.words;
    if (/^\.(if|elif|else|endif|notice|warning|alert|diag)$/.test(word)) {
      if (word !== ".endif")
        left(
          line.number,
          "not taken over: conditions and messages of the file are not evaluated; what stands under them is taken as it is",
        );
    } else if (word === "global") {
      current = sections.global;
    } else if (word === "defaults") {
      latest = { line: line.number, lines: [] };
      if (line.words.includes("from"))
        left(line.number, "not taken over: what the other defaults have is not added to these");
      sections.defaults.push(latest);
      if (name !== "" && name !== "from") named.set(name, latest);
      current = latest.lines;
    } else if (word === "frontend" || word === "backend" || word === "listen") {
      const from = line.words[2] === "from" ? named.get(line.words[3] ?? "") : undefined;
      const proxy: ProxySection = { kind: word, name, line: line.number, own: [], defaults: from ?? latest };
      if (line.words[2] === "from" && from === undefined)
        left(line.number, "not taken over: there are no defaults of that name");
      sections.proxies.push(proxy);
      current = proxy.own;
    } else if (word === "resolvers") {
      current = sections.resolvers;
    } else if (word in OTHER) {
      left(line.number, `the section is not taken over: ${OTHER[word]}`);
      current = [];
    } else if (current === undefined) {
      left(line.number, "not taken over: it stands in no section");
    } else {
      current.push(line);
    }
  }
  return sections;
}
