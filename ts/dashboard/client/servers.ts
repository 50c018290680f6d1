/** The servers' table: a group of rows for each backend, sorted and filtered as the page's address says. */
import { count } from "../format.ts";
import { COLUMNS, matches, sorted, spanning } from "./columns.ts";
import { type DetailEvents, Details } from "./details.ts";
import { h, setAttribute, setChildren, setText } from "./dom.ts";
import { show, shown } from "./hash.ts";
import type { Backend, Model, Server, Touched } from "./model.ts";
import { ServerRow } from "./server-row.ts";
import { counted, queue, ratePerSecond, sizePerSecond, tally } from "./words.ts";

/** Rows at once: more cost more than anybody reads. */
const MAX_ROWS = 1000;
/** How often rows move when what they are sorted by changes. */
const SORT_EVERY_MS = 5000;

type Group = {
  body: HTMLTableSectionElement;
  name: HTMLElement;
  told: HTMLElement;
  more: HTMLTableRowElement;
};

/** See the module's head. */
export class Servers {
  readonly element: HTMLElement;
  readonly #table: HTMLTableElement;
  readonly #heads = new Map<string, HTMLElement>();
  readonly #found = h("p", { class: "found", role: "status" });
  readonly #events: DetailEvents;
  readonly #rows = new Map<string, ServerRow>();
  #groups: Group[] = [];
  /** Rows in the page, by index of their server. */
  #visible = new Map<number, ServerRow>();
  #details: Details | undefined;
  #model: Model | undefined;
  #sortedAt = 0;

  constructor(events: DetailEvents) {
    this.#events = events;
    const columns = [{ id: "name", head: "Server", name: "Server", numeric: false, wide: false }, ...COLUMNS];
    const heads = columns.map(({ id, head, name, numeric, wide }) => {
      const button = h(
        "button",
        { type: "button", title: `Sort by: ${name}`, click: () => this.#sortBy(id, numeric) },
        head,
      );
      const cell = h(
        "th",
        { scope: "col", role: "columnheader", class: `${numeric ? "n " : ""}${wide ? "wide " : ""}${id}` },
        button,
      );
      this.#heads.set(id, cell);
      return cell;
    });
    heads.push(h("th", { scope: "col", role: "columnheader", class: "strip-cell" }, "Checks"));
    this.#table = h(
      "table",
      { role: "table", class: "servers" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...heads)),
    );
    this.element = h(
      "section",
      { "aria-label": "Servers" },
      h("div", { class: "head" }, h("h2", {}, "Backends and servers"), this.#found),
      h(
        "div",
        { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of servers" },
        this.#table,
      ),
    );
  }

  /** For a full picture. */
  rebuild(model: Model): void {
    this.#model = model;
    const keys = new Set(model.servers.map(({ key }) => key));
    for (const key of this.#rows.keys()) if (!keys.has(key)) this.#rows.delete(key);
    while (this.#groups.length < model.backends.length) this.#groups.push(this.#newGroup());
    this.#groups.length = model.backends.length;
    for (const body of [...this.#table.tBodies].slice(model.backends.length)) body.remove();
    this.arrange();
    for (const [index, row] of this.#visible) row.update(model.servers[index] as Server, model);
  }

  /** For a later frame. */
  update(model: Model, touched: Touched): void {
    for (const [index, row] of this.#visible) {
      const server = model.servers[index] as Server;
      if (touched.servers.has(index)) row.update(server, model);
      else row.tick(server, model);
    }
    for (const [i, backend] of model.backends.entries()) this.#tell(backend, this.#groups[i]);
    this.#updateDetails();
    // Rows that somebody points at or types in stay where they are.
    const resting = !this.#table.matches(":hover") && !this.#table.contains(document.activeElement);
    const { sort, q } = shown();
    if ((sort !== "" || q !== "") && resting && performance.now() - this.#sortedAt > SORT_EVERY_MS)
      this.arrange();
  }

  /** Which rows there are, and in which order. */
  arrange(): void {
    const model = this.#model;
    if (model === undefined) return;
    this.#sortedAt = performance.now();
    const { q, sort, server: open } = shown();
    for (const [id, head] of this.#heads) {
      const order = sort === id ? "ascending" : sort === `-${id}` ? "descending" : "none";
      setAttribute(head, "aria-sort", order);
    }
    const before = this.#visible;
    this.#visible = new Map();
    let found = 0;
    model.backends.forEach((backend, i) => {
      const group = this.#groups[i] as Group;
      const wanted = sorted(
        backend.servers.filter((server) => matches(server, q) || server.key === open),
        sort,
      );
      found += wanted.length;
      const room = Math.max(0, MAX_ROWS - this.#visible.size);
      const rows = wanted.slice(0, room).flatMap((server) => {
        const row = this.#rowOf(server);
        this.#visible.set(server.index, row);
        if (before.get(server.index) !== row) row.update(server, model);
        return this.#details?.key === server.key ? [row.element, this.#details.element] : [row.element];
      });
      const left = wanted.length - Math.min(room, wanted.length);
      setText(group.more.firstElementChild as Element, `and ${count(left)} more: filter to see them`);
      const all = [group.body.rows[0] as HTMLTableRowElement, ...rows, ...(left > 0 ? [group.more] : [])];
      setChildren(group.body, all);
      group.body.hidden = wanted.length === 0 && q !== "";
      if (group.body.parentNode === null) this.#table.append(group.body);
      setText(group.name, backend.name);
      this.#tell(backend, group);
    });
    setText(this.#found, q === "" ? "" : `${count(found)} of ${count(model.servers.length)} servers match`);
    this.#openDetails(open);
  }

  /** Somebody has signed in or out. */
  showRights(): void {
    this.#updateDetails();
  }

  /** Indexes of the servers whose rows are there. */
  get visible(): ReadonlySet<number> {
    return new Set(this.#visible.keys());
  }

  #newGroup(): Group {
    const name = h("span", { class: "backend-name" });
    const told = h("span", { class: "told" });
    const head = spanning(h("th", { scope: "rowgroup", role: "rowheader" }, name, told));
    const more = h("tr", { class: "more", role: "row" }, spanning(h("td", { role: "cell" })));
    const body = h("tbody", { role: "rowgroup" }, h("tr", { class: "backend", role: "row" }, head));
    return { body, name, told, more };
  }

  #tell(backend: Backend, group: Group | undefined): void {
    if (group === undefined) return;
    const { rates } = backend;
    const told = [
      tally(backend.servers),
      `${counted(backend.open)} open`,
      ...queue(backend),
      `${ratePerSecond(rates.connections)} conn/s`,
      `to servers ${sizePerSecond(rates.tx)}`,
      `to clients ${sizePerSecond(rates.rx)}`,
    ];
    setText(group.told, told.join(" · "));
  }

  #rowOf(server: Server): ServerRow {
    const known = this.#rows.get(server.key);
    if (known !== undefined) return known;
    const row = new ServerRow(server, {
      toggle: ({ key }) => show({ server: shown().server === key ? "" : key }),
    });
    this.#rows.set(server.key, row);
    return row;
  }

  #sortBy(id: string, numeric: boolean): void {
    const { sort } = shown();
    // The most first where it is a number; a third press gives the configuration's order.
    const [first, second] = numeric ? [`-${id}`, id] : [id, `-${id}`];
    show({ sort: sort === first ? second : sort === second ? "" : first });
  }

  #openDetails(key: string): void {
    const model = this.#model;
    if (model === undefined) return;
    if ((this.#details?.key ?? "") === key) {
      this.#updateDetails();
      return;
    }
    const former = this.#details;
    if (former !== undefined) {
      former.close();
      setAttribute(this.#rows.get(former.key)?.button ?? former.element, "aria-expanded", "false");
      this.#details = undefined;
    }
    const server = model.servers.find((one) => one.key === key);
    const backend = model.backends.find((one) => one.name === server?.backend);
    const row = server && this.#rows.get(server.key);
    if (server === undefined || backend === undefined || row === undefined || !row.element.isConnected)
      return;
    this.#details = new Details(server, backend, model, this.#events);
    row.element.after(this.#details.element);
    setAttribute(row.button, "aria-expanded", "true");
    if (!row.element.contains(document.activeElement)) row.element.scrollIntoView({ block: "nearest" });
  }

  #updateDetails(): void {
    const model = this.#model;
    const server = model?.servers.find(({ key }) => key === this.#details?.key);
    const backend = model?.backends.find(({ name }) => name === server?.backend);
    if (model && server && backend) this.#details?.update(server, backend, model);
    else if (this.#details !== undefined) {
      this.#details.close();
      this.#details = undefined;
    }
  }
}
