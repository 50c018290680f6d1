/** The head of the page: what runs, how it is, and the totals. */
import { clock, count } from "../format.ts";
import { h, setAttribute, setText } from "./dom.ts";
import type { Model } from "./model.ts";
import { counted, ratePerSecond, size, sizePerSecond, tally } from "./words.ts";

/** See the module's head. */
export class Summary {
  readonly element = h("dl", { class: "totals", "aria-label": "Totals" });
  readonly about = h("p", { class: "about" });
  readonly #uptime = h("span");
  #shown = "";

  update(model: Model): void {
    const { overview, history, servers, frontends } = model;
    const about = [
      overview.version,
      overview.mode,
      ...(overview.engine === undefined ? [] : [`engine ${overview.engine}`]),
      `configuration ${overview.config_version}`,
      ...(overview.draining ? ["draining: it is closing"] : []),
    ].join(" · ");
    if (about !== this.#shown) {
      this.#shown = about;
      this.about.replaceChildren(`${about} · up `, this.#uptime);
    }
    setText(this.#uptime, clock(model.at));
    const last = (values: readonly (number | null)[]): number | null => values.at(-1) ?? null;
    const closed = frontends.filter(({ address }) => address === "").length;
    const tiles: [string, string, string?][] = [
      ["Servers", tally(servers)],
      [
        "Frontends",
        closed === 0
          ? `${count(frontends.length)} listening`
          : `${count(closed)} of ${count(frontends.length)} closed`,
      ],
      ["Open connections", counted(overview.current_connections)],
      ["Connections/s", ratePerSecond(last(history.connections))],
      ["Connections", counted(overview.total_connections)],
      ["To servers", sizePerSecond(last(history.tx) ?? 0), size(overview.total_bytes_tx)],
      [
        "To clients",
        sizePerSecond(model.seesAnswers ? (last(history.rx) ?? 0) : null),
        model.seesAnswers ? size(overview.total_bytes_rx) : "answers do not pass here",
      ],
      ["Refused/s", ratePerSecond(last(history.refused))],
    ];
    if (overview.flows !== undefined) {
      tiles.push(
        ["Packets/s", ratePerSecond(last(history.packets))],
        ["Drops/s", ratePerSecond(last(history.drops))],
        ["Flows", count(overview.flows.current), `of ${count(overview.flows.capacity)}`],
      );
    }
    if (this.element.childElementCount !== tiles.length) {
      this.element.replaceChildren(
        ...tiles.map(([name]) => h("div", {}, h("dt", {}, name), h("dd", {}, h("b"), h("small")))),
      );
    }
    tiles.forEach(([, value, more], i) => {
      const [big, small] = this.element.children[i]?.lastElementChild?.children ?? [];
      if (big) setText(big, value);
      if (small) setText(small, more ?? "");
    });
    const down = servers.some(({ state }) => state === "down");
    setAttribute(this.element.children[0] as Element, "class", down ? "bad" : "");
  }
}
