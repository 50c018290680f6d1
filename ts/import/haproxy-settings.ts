/** What a proxy section says, and what it has from its defaults. */
import { haproxyDuration } from "./durations.ts";
import type { Line } from "./haproxy-lines.ts";
import type { ProxySection } from "./haproxy-sections.ts";
import { readServerOptions, type ServerOptions } from "./haproxy-server.ts";
import { reasonFor, settingOf } from "./haproxy-words.ts";

export type Left = (line: number, message: string) => void;

/** The limit of the whole process, for queues that have no limit of their own. */
export interface Place {
  connections: { value: number; line: number } | undefined;
}

const TAKEN = new Set([
  "mode",
  "balance",
  "retries",
  "maxconn",
  "default_backend",
  ...["connect", "client", "server", "queue", "check", "client-fin", "server-fin", "tunnel"].map(
    (name) => `timeout ${name}`,
  ),
  ...["tcplog", "dontlog-normal", "httpchk", "tcp-check"].map((name) => `option ${name}`),
]);

/** Lines of which there may be many, by their first word. */
const LISTS = ["bind", "server", "acl", "use_backend", "tcp-request", "tcp-check", "http-check"] as const;
type List = (typeof LISTS)[number];
const isList = (word: string): word is List => (LISTS as readonly string[]).includes(word);

export class Settings {
  readonly #own = new Map<string, Line>();
  readonly #lists = new Map<List, Line[]>();
  readonly #base: Settings | undefined;
  /** What servers have that do not say otherwise. */
  readonly server: ServerOptions;

  private constructor(lines: readonly Line[], base: Settings | undefined, left: Left) {
    this.#base = base;
    this.server = { ...base?.server };
    for (const line of lines) {
      const { number } = line;
      const [word = ""] = line.words;
      const setting = settingOf(line.words);
      if (isList(word)) {
        const list = this.#lists.get(word);
        if (list) list.push(line);
        else this.#lists.set(word, [line]);
      } else if (word === "default-server") {
        readServerOptions(line.words.slice(1), this.server, (message) => left(number, message));
      } else if (TAKEN.has(setting)) {
        if (!isReadable(line, setting)) left(number, "not taken over: it has no value that is understood");
        if (setting === "option httpchk" || setting === "option tcp-check") this.#own.set("check", line);
        this.#own.set(setting, line);
      } else {
        const reason = reasonFor(setting);
        if (reason !== undefined) left(number, `not taken over: ${reason}`);
      }
    }
  }

  /** What cannot stand in defaults is told. */
  static ofDefaults(lines: readonly Line[], left: Left): Settings {
    const settings = new Settings(lines, undefined, left);
    for (const list of settings.#lists.values()) {
      for (const { number } of list) left(number, "not taken over: write it in the sections that it is for");
    }
    settings.#lists.clear();
    return settings;
  }

  static of(proxy: ProxySection, base: Settings | undefined, left: Left): Settings {
    return new Settings(proxy.own, base, left);
  }

  get(setting: string): Line | undefined {
    return this.#own.get(setting) ?? this.#base?.get(setting);
  }

  list(name: List): readonly Line[] {
    return this.#lists.get(name) ?? [];
  }

  /** An option that is on; `no option` takes it away. */
  option(name: string): Line | undefined {
    const line = this.get(`option ${name}`);
    return line?.words[0] === "option" ? line : undefined;
  }

  /** The option that says what checks are; that which was written last. */
  check(): Line | undefined {
    const line = this.get("check");
    return line?.words[0] === "option" ? line : undefined;
  }

  /** A whole number, with its line. */
  number(setting: string): { value: number; line: number } | undefined {
    const line = this.get(setting);
    const text = line?.words[1] ?? "";
    return line && /^\d{1,10}$/.test(text) ? { value: Number(text), line: line.number } : undefined;
  }

  /** Milliseconds, with the line. */
  timeout(name: string): { value: number; line: number } | undefined {
    const line = this.get(`timeout ${name}`);
    const value = haproxyDuration(line?.words[2] ?? "");
    return line && value !== undefined ? { value, line: line.number } : undefined;
  }
}

/** Whether a setting that has a number or a duration has one. */
function isReadable({ words }: Line, setting: string): boolean {
  if (setting.startsWith("timeout ")) return haproxyDuration(words[2] ?? "") !== undefined;
  return (setting !== "maxconn" && setting !== "retries") || /^\d{1,10}$/.test(words[1] ?? "");
}
