/** Where traffic comes in and which way it goes: a line a frontend, with the state of the servers behind it. */
import { h, setAttribute, setChildren, setText } from "./dom.ts";
import type { Backend, Frontend, Model } from "./model.ts";
import { counted, ratePerSecond, size, sizePerSecond, tally } from "./words.ts";

const HEADS = [
  "Frontend",
  "Listens on",
  "Backend and its servers",
  "Open",
  "Conn/s",
  "Total",
  "To servers",
  "To clients",
  "Bytes to servers",
  "Bytes to clients",
  "Refused",
];
/** Cells from here on are numbers. */
const FIRST_NUMBER = 3;
/** Servers drawn one by one. */
const DOTS = 48;

/** See the module's head. */
export class Frontends {
  readonly element: HTMLElement;
  readonly #body = h("tbody", { role: "rowgroup" });
  #rows: Row[] = [];

  constructor() {
    const heads = HEADS.map((head, i) =>
      h("th", { scope: "col", role: "columnheader", class: i >= FIRST_NUMBER ? "n" : "" }, head),
    );
    this.element = h(
      "section",
      { "aria-label": "Frontends" },
      h("h2", {}, "Frontends"),
      h(
        "div",
        { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of frontends" },
        h(
          "table",
          { role: "table" },
          h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...heads)),
          this.#body,
        ),
      ),
    );
  }

  rebuild(model: Model): void {
    this.#rows = model.frontends.map(() => new Row());
    setChildren(
      this.#body,
      this.#rows.map(({ element }) => element),
    );
    this.update(model);
  }

  update(model: Model): void {
    const backends = new Map(model.backends.map((backend) => [backend.name, backend]));
    for (const [i, frontend] of model.frontends.entries()) {
      this.#rows[i]?.update(frontend, backends.get(frontend.backend));
    }
  }
}

class Row {
  readonly element = h("tr", { role: "row" });
  readonly #name = h("th", { scope: "row", role: "rowheader" });
  readonly #way = h("span", { class: "way" });
  readonly #link = h("a");
  readonly #dots = h("span", { class: "dots", "aria-hidden": "true" });
  readonly #tally = h("span", { class: "tally" });
  readonly #cells: HTMLElement[];

  constructor() {
    this.#way.append("→ ", this.#link, this.#dots, this.#tally);
    this.#cells = HEADS.slice(1).map((head, i) =>
      h(
        "td",
        { role: "cell", "data-label": head, class: i + 1 >= FIRST_NUMBER ? "n" : "" },
        ...(i === 1 ? [this.#way] : []),
      ),
    );
    this.element.append(this.#name, ...this.#cells);
  }

  update(frontend: Frontend, backend: Backend | undefined): void {
    setText(this.#name, frontend.name);
    setText(this.#link, frontend.backend);
    setAttribute(this.#link, "href", `#q=${encodeURIComponent(`${frontend.backend}/`)}`);
    const servers = backend?.servers ?? [];
    const shown = servers.slice(0, DOTS);
    while (this.#dots.childElementCount < shown.length) this.#dots.append(h("i"));
    while (this.#dots.childElementCount > shown.length) this.#dots.lastElementChild?.remove();
    for (const [i, { state }] of shown.entries())
      setAttribute(this.#dots.children[i] as Element, "class", state);
    const others = frontend.backends.slice(1);
    const routed = others.length === 0 ? "" : `; by ClientHello also ${others.join(", ")}`;
    setText(this.#tally, `${tally(servers)}${routed}`);
    const refused = Object.values(frontend.reasons).reduce((sum, n) => sum + n, 0);
    const { rates } = frontend;
    const texts = [
      frontend.address || "closed",
      undefined,
      counted(frontend.open),
      ratePerSecond(rates.connections),
      counted(frontend.total),
      sizePerSecond(rates.tx),
      sizePerSecond(rates.rx),
      size(frontend.tx),
      size(frontend.rx),
      counted(refused),
    ];
    texts.forEach((text, i) => {
      if (text !== undefined) setText(this.#cells[i] as Element, text);
    });
  }
}
