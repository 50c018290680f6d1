/** What is known of one server beyond its row: reasons, latest changes of its state, 15 minutes of rates. */
import type { ServerHistory } from "../../control/frame.ts";
import { ago, bytes, clock, count } from "../format.ts";
import { drain, enable, weigh } from "./actions.ts";
import { type Outcome, serverHistory } from "./changes.ts";
import { Chart } from "./chart.ts";
import { spanning } from "./columns.ts";
import { h, setText } from "./dom.ts";
import type { Backend, Model, Server } from "./model.ts";
import { percent, share } from "./words.ts";

export type DetailEvents = {
  /** Whether buttons that change something are of use; otherwise why not. */
  mayChange: () => true | string;
  told: (outcome: Outcome | undefined) => void;
};

/** How often the rates are asked for; they are kept in steps of 15 seconds. */
const ASK_MS = 5000;

/** See the module's head. */
export class Details {
  readonly element: HTMLTableRowElement;
  readonly key: string;
  readonly #facts = h("dl", { class: "facts" });
  readonly #changes = h("ol", { class: "changes" });
  readonly #charts = h("div", { class: "charts" });
  readonly #buttons: HTMLButtonElement[];
  readonly #note = h("p", { class: "note" });
  readonly #timer: number;
  readonly #events: DetailEvents;
  #drawn: Chart[] = [];
  #server: Server;
  #backend: Backend;

  constructor(server: Server, backend: Backend, model: Model, events: DetailEvents) {
    this.key = server.key;
    this.#server = server;
    this.#backend = backend;
    this.#events = events;
    const act = (run: (server: Server, backend: Backend) => Promise<Outcome | undefined>) => async () =>
      events.told(await run(this.#server, this.#backend));
    this.#buttons = [
      h("button", { type: "button", class: "drain", click: () => void act(drain)() }, "Drain…"),
      h("button", { type: "button", class: "enable", click: () => void act(enable)() }, "Enable…"),
      h("button", { type: "button", class: "weigh", click: () => void act(weigh)() }, "Weight…"),
    ];
    this.element = h(
      "tr",
      { class: "details", role: "row" },
      h(
        "td",
        { role: "cell" },
        h(
          "div",
          { class: "panel", role: "group", "aria-label": `Details of ${server.key}` },
          h(
            "div",
            { class: "column" },
            this.#facts,
            h("div", { class: "buttons" }, ...this.#buttons),
            this.#note,
          ),
          h("div", { class: "column" }, h("h3", {}, "State changes"), this.#changes),
          this.#charts,
        ),
      ),
    );
    spanning(this.element.cells[0] as HTMLTableCellElement);
    this.#timer = window.setInterval(() => void this.#ask(), ASK_MS);
    this.update(server, backend, model);
    void this.#ask();
  }

  close(): void {
    clearInterval(this.#timer);
    for (const chart of this.#drawn) chart.close();
    this.element.remove();
  }

  update(server: Server, backend: Backend, model: Model): void {
    this.#server = server;
    this.#backend = backend;
    const refused = Object.entries(server.reasons).map(([reason, n]) => `${reason}: ${count(n)}`);
    const facts: [string, string][] = [
      ["State", `${server.state} for ${ago(model.at - server.since)}: ${server.why}`],
      [
        "Share of new connections",
        `${percent(share(server, backend))} by ${backend.balance.replaceAll("_", " ")}`,
      ],
      [
        "Last check",
        server.check === null ? "not yet" : `${ago(model.at - server.check.at)} ago: ${server.check.answer}`,
      ],
      ["Bytes to the server", bytes(server.tx)],
      ["Bytes to clients", server.rx === null ? "not visible here" : bytes(server.rx)],
      ["Refused or ended early", refused.join(", ") || "none"],
    ];
    if (this.#facts.childElementCount !== facts.length) {
      this.#facts.replaceChildren(...facts.map(([name]) => h("div", {}, h("dt", {}, name), h("dd"))));
    }
    facts.forEach(([, value], i) => {
      const definition = this.#facts.children[i]?.lastElementChild;
      if (definition) setText(definition, value);
    });
    const may = this.#events.mayChange();
    const [drains, enables, weighs] = this.#buttons as [
      HTMLButtonElement,
      HTMLButtonElement,
      HTMLButtonElement,
    ];
    for (const button of [drains, enables, weighs]) button.hidden = may !== true;
    drains.disabled = server.state === "draining";
    enables.disabled = server.state === "up";
    setText(this.#note, may === true ? "" : may);
  }

  async #ask(): Promise<void> {
    const history = await serverHistory<ServerHistory>(this.#server.backend, this.#server.name);
    if (history === undefined || !this.element.isConnected) return;
    this.#changes.replaceChildren(
      ...[...history.changes]
        .reverse()
        .map(({ at, state, why }) =>
          h("li", {}, h("time", {}, clock(at)), h("b", { class: `state ${state}` }, state), ` ${why}`),
        ),
    );
    if (this.#drawn.length === 0) {
      const rates = new Chart(
        "Connections/s, 15 minutes",
        [{ name: "connections", stroke: "--series-1" }],
        "rate",
      );
      const moved = new Chart(
        "Bytes/s, 15 minutes",
        [
          { name: "to server", stroke: "--series-1" },
          { name: "to clients", stroke: "--series-2" },
        ],
        "bytes",
      );
      this.#drawn = [rates, moved];
      this.#charts.replaceChildren(rates.element, moved.element);
    }
    this.#drawn[0]?.show([history.connections], history.step);
    this.#drawn[1]?.show([history.tx, history.rx], history.step);
  }
}
