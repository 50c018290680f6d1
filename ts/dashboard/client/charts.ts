/** The charts of the whole balancer. */
import { Chart, type Line } from "./chart.ts";
import { h } from "./dom.ts";
import type { Model } from "./model.ts";

const line = (name: string, n: number): Line => ({ name, stroke: `--series-${n}` });

/** The most lines in the chart of backends. */
const BACKENDS = 6;

/** See the module's head. */
export class Charts {
  readonly element = h("section", { class: "charts", "aria-label": "The last 15 minutes" });
  #charts: { chart: Chart; values: (model: Model) => Parameters<Chart["show"]>[0] }[] = [];

  /** For a full picture: there may be other lines. */
  rebuild(model: Model): void {
    for (const { chart } of this.#charts) chart.close();
    const packets = model.overview.packets !== undefined;
    const answers = model.seesAnswers;
    const shown = model.history.backends.slice(0, BACKENDS);
    this.#charts = [
      {
        chart: new Chart("Connections/s", [line("begun", 1), line("refused", 3)], "rate"),
        values: ({ history }) => [history.connections, history.refused],
      },
      {
        chart: new Chart(
          "Bytes/s",
          [line("to servers", 1), ...(answers ? [line("to clients", 2)] : [])],
          "bytes",
          answers ? "" : "to clients: not visible here",
        ),
        values: ({ history }) => [history.tx, ...(answers ? [history.rx] : [])],
      },
      ...(shown.length === 0
        ? []
        : [
            {
              chart: new Chart(
                "Open connections",
                shown.map(({ name }, i) => line(name, i + 1)),
                "gauge",
              ),
              values: ({ history }: Model) => history.backends.slice(0, BACKENDS).map(({ open }) => open),
            },
          ]),
      ...(packets
        ? [
            {
              chart: new Chart("Packets/s", [line("forwarded", 1), line("dropped", 3)], "rate"),
              values: ({ history }: Model) => [history.packets, history.drops],
            },
          ]
        : []),
    ];
    this.element.replaceChildren(...this.#charts.map(({ chart }) => chart.element));
    this.update(model);
  }

  /** Each chart is drawn when the browser has time, so that no frame waits for all of them. */
  update(model: Model): void {
    for (const { chart, values } of this.#charts) whenIdle(() => chart.show(values(model)));
  }
}

const whenIdle = (run: () => void): void => {
  // Not in every browser.
  if (typeof requestIdleCallback === "function") requestIdleCallback(run, { timeout: 500 });
  else setTimeout(run, 0);
};
