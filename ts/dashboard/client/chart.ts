/** A chart of the last 15 minutes, with its newest values in words below. */
import uPlot from "uplot";
import type { Values } from "../../control/frame.ts";
import { bytes, count, perSecond } from "../format.ts";
import { h, setAttribute, setText } from "./dom.ts";
import { SECONDS } from "./model.ts";

/** `stroke` names a custom property of the style sheet. */
export type Line = { name: string; stroke: string };

const HEIGHT = 110;

const color = (name: string): string =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const FORMAT = { rate: perSecond, gauge: count, bytes: (n: number) => `${bytes(n)}/s` };
/** Steps of the axis; those of bytes are round in the units they are told in. */
const STEPS = {
  rate: [...[0.1, 0.2, 0.5], ...decimal()],
  gauge: decimal(),
  bytes: Array.from({ length: 50 }, (_, i) => 2 ** i),
};
/** The least that the axis reaches. */
const LEAST = { rate: 1, gauge: 4, bytes: 1024 };

function decimal(): number[] {
  return Array.from({ length: 12 }, (_, i) => [10 ** i, 2 * 10 ** i, 5 * 10 ** i]).flat();
}

/** See the module's head. */
export class Chart {
  readonly element: HTMLElement;
  readonly #lines: readonly Line[];
  readonly #unit: keyof typeof FORMAT;
  readonly #place = h("div", { class: "plot", role: "img" });
  readonly #values: HTMLElement[];
  readonly #title: string;
  readonly #resize: ResizeObserver;
  readonly #scheme = matchMedia("(prefers-color-scheme: dark)");
  #closed = false;
  #plot: uPlot | undefined;
  #data: uPlot.AlignedData = [[]];

  constructor(title: string, lines: readonly Line[], unit: keyof typeof FORMAT, note = "") {
    this.#title = title;
    this.#lines = lines;
    this.#unit = unit;
    this.#values = lines.map(() => h("b"));
    const legend = lines.map(({ name, stroke }, i) => {
      const key = h("i", { class: `key ${stroke.slice(2)}` });
      return h("span", {}, key, `${name} `, this.#values[i] as HTMLElement);
    });
    this.element = h(
      "figure",
      { class: "chart" },
      h(
        "figcaption",
        {},
        h("span", { class: "title" }, title),
        ...legend,
        ...(note ? [h("em", {}, note)] : []),
      ),
      this.#place,
    );
    this.#resize = new ResizeObserver(() => this.#fit());
    this.#resize.observe(this.#place);
    this.#scheme.addEventListener("change", this.#redraw);
  }

  /** Values of each line, the newest last and `step` seconds apart. */
  show(values: readonly Values[], step = 1): void {
    if (this.#closed) return;
    const length = Math.max(1, ...values.map((line) => line.length));
    const slots = Math.round(SECONDS / step);
    const x = Array.from({ length: slots }, (_, i) => (i - slots + 1) * step);
    const lines = values.map((line) => [
      ...new Array<null>(Math.max(0, slots - line.length)).fill(null),
      ...line,
    ]);
    this.#data = [x, ...lines] as uPlot.AlignedData;
    this.#plot?.setData(this.#data);
    const format = FORMAT[this.#unit];
    const told = values.map((line) => line.at(-1) ?? null);
    for (const [i, value] of told.entries()) {
      setText(this.#values[i] as HTMLElement, value === null ? "–" : format(value));
    }
    const most = this.#lines.map(({ name }, i) => {
      const max = Math.max(0, ...(values[i] ?? []).map((value) => value ?? 0));
      return `${name} now ${told[i] == null ? "not counted" : format(told[i])}, at most ${format(max)}`;
    });
    const minutes = Math.ceil((length * step) / 60);
    setAttribute(this.#place, "aria-label", `${this.#title}, last ${minutes} minutes: ${most.join("; ")}`);
    // Asking for its width lays the whole page out: not for each frame.
    if (this.#plot === undefined) this.#fit();
  }

  close(): void {
    this.#closed = true;
    this.#resize.disconnect();
    this.#scheme.removeEventListener("change", this.#redraw);
    this.#plot?.destroy();
  }

  #fit(): void {
    const width = Math.floor(this.#place.clientWidth);
    if (width <= 0) return;
    if (this.#plot === undefined) this.#plot = new uPlot(this.#options(width), this.#data, this.#place);
    else if (this.#plot.width !== width) this.#plot.setSize({ width, height: HEIGHT });
  }

  readonly #redraw = (): void => {
    this.#plot?.destroy();
    this.#plot = undefined;
    this.#fit();
  };

  #options(width: number): uPlot.Options {
    const axis = { stroke: color("--dim"), font: "11px system-ui", ticks: { show: false } };
    const grid = { stroke: color("--line"), width: 1 };
    const short = (n: number): string =>
      n === 0
        ? "0"
        : this.#unit === "bytes"
          ? bytes(n)
              .replace(/\.0 | /, "")
              .replace("iB", "")
          : FORMAT[this.#unit](n);
    return {
      width,
      height: HEIGHT,
      legend: { show: false },
      cursor: { show: false },
      scales: {
        x: { time: false, range: [-SECONDS, 0] },
        y: { range: (_, __, max) => [0, Math.max(LEAST[this.#unit], max * 1.1)] },
      },
      axes: [
        {
          ...axis,
          grid: { show: false },
          size: 22,
          splits: () => [-900, -600, -300, 0],
          values: (_, splits) => splits.map((s) => (s === 0 ? "now" : `${s / 60} min`)),
        },
        {
          ...axis,
          grid,
          size: 48,
          space: 28,
          incrs: STEPS[this.#unit],
          values: (_, splits) => splits.map(short),
        },
      ],
      series: [
        {},
        ...this.#lines.map(({ name, stroke }) => ({
          label: name,
          stroke: color(stroke),
          width: 1.5,
          // A value alone makes no line.
          points: {
            show: (u: uPlot, i: number) =>
              [...(u.data[i] ?? [])].filter((value) => value !== null).length < 3,
            size: 4,
          },
        })),
      ],
    };
  }
}
