/** Why traffic was refused, which engine forwards and why, and how the last reload ended. */
import type { Reasons } from "../../control/stats.ts";
import { count } from "../format.ts";
import { h } from "./dom.ts";
import type { Model } from "./model.ts";

/** See the module's head. */
export class ReasonLists {
  readonly element = h("section", { class: "lists", "aria-label": "Reasons, engine and reload" });
  #shown = "";

  update({ overview }: Model): void {
    const {
      reasons,
      packets,
      engine,
      engines_refused,
      guard,
      interfaces,
      last_reload: reload,
      mode,
    } = overview;
    const state = JSON.stringify([reasons, packets, engine, engines_refused, guard, interfaces, reload]);
    if (state === this.#shown) return;
    this.#shown = state;
    const where = mode === "proxy" ? "Connections are relayed by Rust threads; no engine is chosen." : "";
    const engineLines = [
      ...(where ? [h("p", {}, where)] : []),
      ...(engine === undefined
        ? []
        : [
            h(
              "p",
              {},
              h("b", {}, engine),
              ` on ${interfaces?.join(", ") ?? ""}; ${guard ? `${guard} keeps the kernel from answering` : "no guard is needed beside it"}`,
            ),
          ]),
      ...(engines_refused ?? []).map((one) =>
        h(
          "p",
          {},
          h("b", {}, one.engine),
          ` was not taken: ${one.cause}${one.remedy === "" ? "" : `; ${one.remedy}`}`,
        ),
      ),
    ];
    const reloadLine =
      reload === null
        ? h("p", {}, "none since the start")
        : h(
            "p",
            { class: reload.result === "rejected" ? "bad" : "" },
            h("b", {}, reload.result),
            ` ${reload.message} `,
            h("time", { datetime: reload.at }, new Date(reload.at).toLocaleString()),
          );
    const lists = [
      block("Engine", engineLines),
      block("Last reload", [reloadLine]),
      table("Refused or ended early", reasons),
      ...(packets === undefined
        ? []
        : [
            table("Packets dropped", packets.dropped),
            table("Packets left to the kernel", packets.passed),
            table("Packets answered here", packets.replied),
            table("Noted of packets and flows", packets.noted),
            table("NAT ports, by how many were looked at", packets.nat_port_probes, mode === "passthrough"),
            table("Kept from the kernel", packets.guard ?? {}, packets.guard !== undefined),
          ]),
    ];
    this.element.replaceChildren(...lists.filter((one) => one !== undefined));
  }
}

const block = (head: string, content: readonly HTMLElement[]): HTMLElement =>
  h("div", { class: "list" }, h("h2", {}, head), ...content);

function table(head: string, reasons: Reasons, wanted = true): HTMLElement | undefined {
  if (!wanted) return undefined;
  const entries = Object.entries(reasons).sort(([, a], [, b]) => b - a);
  const rows = entries.map(([reason, n]) =>
    h("div", {}, h("dt", {}, reason.replaceAll("_", " ")), h("dd", {}, count(n))),
  );
  return block(head, [rows.length === 0 ? h("p", { class: "dim" }, "none") : h("dl", {}, ...rows)]);
}
