/** One server's row, made once and patched in place. */
import { millis } from "../format.ts";
import { CHECK, COLUMNS, STATE } from "./columns.ts";
import { h, setAttribute, setText } from "./dom.ts";
import type { Model, Server } from "./model.ts";

export type RowEvents = {
  /** The details are to be opened or closed. */
  toggle: (server: Server) => void;
};

/** Checks shown. */
const STRIP = 24;
/** Width of each. */
const MARK_PX = 4;

/** A picture of those checks that ended so, the newest on the right; the style sheet cuts it into marks. */
function marks(strip: string, wanted: string, color: string): string {
  const stops: string[] = [];
  const first = STRIP - strip.length;
  for (let i = 0; i < strip.length; i++) {
    const [before, now] = [strip[i - 1] === wanted, strip[i] === wanted];
    if (now === before) continue;
    const at = `${(first + i) * MARK_PX}px`;
    stops.push(now ? `transparent ${at}, var(${color}) ${at}` : `var(${color}) ${at}, transparent ${at}`);
  }
  if (!strip.endsWith(wanted)) stops.push("transparent 100%");
  else stops.push(`var(${color}) 100%`);
  return `linear-gradient(to right, transparent 0, ${stops.join(", ")})`;
}

/** See the module's head. */
export class ServerRow {
  readonly element: HTMLTableRowElement;
  readonly button: HTMLButtonElement;
  readonly #cells = new Map<string, HTMLElement>();
  readonly #why: HTMLElement;
  readonly #latency: HTMLElement;
  readonly #strip: HTMLElement;
  #state = "";
  #marks = "";
  #image = "";

  constructor(server: Server, events: RowEvents) {
    this.button = h(
      "button",
      { type: "button", class: "name", "aria-expanded": "false", click: () => events.toggle(server) },
      server.name,
    );
    this.element = h("tr", { role: "row" }, h("th", { scope: "row", role: "rowheader" }, this.button));
    this.#why = h("span", { class: "why" });
    this.#latency = h("span", { class: "latency" });
    for (const { id, name, numeric, wide } of COLUMNS) {
      const value = h("span", { class: "value" });
      const cell = h(
        "td",
        {
          role: "cell",
          "data-label": name,
          class: `${numeric ? "n" : ""}${wide ? " wide" : ""} ${id}`.trim(),
        },
        value,
      );
      if (id === STATE) cell.append(this.#why);
      if (id === CHECK) cell.append(this.#latency);
      this.#cells.set(id, value);
      this.element.append(cell);
    }
    this.#strip = h("span", { class: "strip", role: "img" });
    this.element.append(h("td", { role: "cell", "data-label": "Checks", class: "strip-cell" }, this.#strip));
  }

  /** The row is of another picture's server of the same name from now on. */
  update(server: Server, model: Model): void {
    for (const { id, text } of COLUMNS) {
      if (id === CHECK) continue;
      setText(this.#cells.get(id) as HTMLElement, text(server, model));
    }
    const { check } = server;
    const answer = this.#cells.get(CHECK) as HTMLElement;
    setText(answer, check === null ? "not yet" : check.answer);
    setAttribute(answer, "title", check?.answer ?? false);
    setText(this.#latency, check === null ? "" : millis(check.ms));
    setText(this.#why, server.state === "up" ? "" : server.why);
    setAttribute(this.#why, "title", server.state === "up" ? false : server.why);
    if (this.#state !== server.state) {
      this.#state = server.state;
      this.element.className = `server ${server.state}`;
    }
    this.#showStrip(server.strip);
  }

  /** The time in a state goes on without a frame. */
  tick(server: Server, model: Model): void {
    const state = COLUMNS.find(({ id }) => id === STATE);
    if (state !== undefined) setText(this.#cells.get(STATE) as HTMLElement, state.text(server, model));
  }

  #showStrip(strip: string): void {
    if (strip === this.#marks) return;
    this.#marks = strip;
    // A background, for an element a check would be thousands of them.
    const image = `${marks(strip, "-", "--bad-mark")}, ${marks(strip, "+", "--good-mark")}`;
    if (image !== this.#image) {
      this.#image = image;
      this.#strip.style.backgroundImage = image;
    }
    const failed = [...strip].filter((mark) => mark === "-").length;
    const text = `latest ${strip.length} checks: ${failed === 0 ? "all passed" : `${failed} failed`}`;
    setAttribute(this.#strip, "aria-label", text);
    setAttribute(this.#strip, "title", text);
  }
}
