/** What is wrong, above everything else. */
import { ago, count } from "../format.ts";
import { h, setChildren, setText } from "./dom.ts";
import type { Backend, Model, Server } from "./model.ts";
import { takesNew } from "./words.ts";

/** Servers of one backend named one by one. */
const NAMED = 5;

type Item = { key: string; tone: "bad" | "warn"; text: string; server?: string };

/** See the module's head. */
export class Attention {
  readonly element = h("section", { class: "attention", "aria-label": "Needs attention" });
  readonly #list = h("ul");
  readonly #shown = new Map<string, HTMLLIElement>();

  constructor() {
    this.element.append(h("h2", {}, "Needs attention"), this.#list);
    this.element.hidden = true;
  }

  update(model: Model): void {
    const items = found(model);
    this.element.hidden = items.length === 0;
    const keys = new Set(items.map(({ key }) => key));
    for (const key of this.#shown.keys()) if (!keys.has(key)) this.#shown.delete(key);
    const lines = items.map(({ key, tone, text, server }) => {
      const known = this.#shown.get(key);
      const line =
        known ?? h("li", { class: tone }, h("b", {}, tone === "bad" ? "failing" : "note"), line0(server));
      this.#shown.set(key, line);
      setText(line.lastElementChild as Element, text);
      return line;
    });
    setChildren(this.#list, lines);
  }
}

const line0 = (server: string | undefined): HTMLElement =>
  server === undefined
    ? h("span")
    : h("a", { href: `#server=${encodeURIComponent(server).replaceAll("%2F", "/")}` });

function found(model: Model): Item[] {
  const { overview, backends, frontends, at } = model;
  const { last_reload: reload } = overview;
  const used = new Set(frontends.flatMap(({ backends }) => backends));
  return [
    ...(reload?.result === "rejected"
      ? [
          {
            key: "reload",
            tone: "bad" as const,
            text: `The last reload was rejected, the old configuration serves on: ${reload.message}`,
          },
        ]
      : []),
    ...backends
      .filter(({ name, servers }) => used.has(name) && !servers.some(takesNew))
      .map(
        (backend): Item => ({
          key: `backend ${backend.name}`,
          tone: "bad",
          text: `Backend ${backend.name} has no server for new connections${reached(backend, model)}`,
        }),
      ),
    ...frontends
      .filter(({ address }) => address === "")
      .map(
        ({ name }): Item => ({
          key: `frontend ${name}`,
          tone: "bad",
          text: `Frontend ${name} does not listen`,
        }),
      ),
    ...backends.flatMap((backend) => ofServers(backend, at)),
    ...(overview.worker_panics
      ? [
          {
            key: "panics",
            tone: "bad" as const,
            text: `A worker was started again ${count(overview.worker_panics)} times after a panic: see the log`,
          },
        ]
      : []),
    ...(overview.flows !== undefined && overview.flows.current > 0.9 * overview.flows.capacity
      ? [
          {
            key: "flows",
            tone: "warn" as const,
            text: `The flow table is nearly full: ${count(overview.flows.current)} of ${count(overview.flows.capacity)}`,
          },
        ]
      : []),
  ];
}

function reached(backend: Backend, { frontends }: Model): string {
  const names = frontends.filter((one) => one.backends.includes(backend.name)).map(({ name }) => name);
  return names.length === 0 ? "" : `: frontend ${names.join(", ")} refuses them`;
}

function ofServers(backend: Backend, at: number): Item[] {
  const down = backend.servers.filter(({ state }) => state === "down");
  const draining = backend.servers.filter(({ state }) => state === "draining");
  return [
    ...down.slice(0, NAMED).map((server) => about(server, "bad", at)),
    ...(down.length > NAMED
      ? [
          {
            key: `more ${backend.name}`,
            tone: "bad" as const,
            text: `and ${count(down.length - NAMED)} more servers of ${backend.name} are down`,
          },
        ]
      : []),
    ...draining.slice(0, NAMED).map((server) => about(server, "warn", at)),
  ];
}

function about(server: Server, tone: Item["tone"], at: number): Item {
  const { key, state, why, since } = server;
  return {
    key: `${state} ${key}`,
    tone,
    text: `Server ${key} is ${state} for ${ago(at - since)}${why === "" ? "" : `: ${why}`}`,
    server: key,
  };
}
