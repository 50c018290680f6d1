/** The columns of the servers' table: what each shows, how it sorts, how it is copied. */
import { ago, millis } from "../format.ts";
import type { Model, Server } from "./model.ts";
import { counted, ratePerSecond, size, sizePerSecond, weightText } from "./words.ts";

export type Column = {
  id: string;
  /** Short, for the head. */
  head: string;
  /** For screen readers and phones, where the head is not beside it. */
  name: string;
  numeric: boolean;
  text: (server: Server, model: Model) => string;
  /** What it sorts by. */
  key: (server: Server) => number | string;
  /** Whether a window that is not wide leaves it out: it is in the details. */
  wide?: boolean;
};

const RANK = { down: 0, draining: 1, up: 2 };

const column = (
  id: string,
  head: string,
  name: string,
  text: Column["text"],
  key: Column["key"],
  more: Partial<Column> = {},
): Column => ({ id, head, name, numeric: true, text, key, ...more });

export const STATE = "state";
export const CHECK = "check";

export const COLUMNS: readonly Column[] = [
  column(
    "addr",
    "Address",
    "Address",
    (s) => s.addr,
    (s) => s.addr,
    { numeric: false },
  ),
  column(
    STATE,
    "State",
    "State",
    (s, model) => `${s.state} for ${ago(model.at - s.since)}`,
    (s) => RANK[s.state],
    { numeric: false },
  ),
  column(
    "weight",
    "Weight",
    "Weight",
    (s) => weightText(s),
    (s) => s.weight,
  ),
  column(
    "open",
    "Open",
    "Open connections",
    (s) => counted(s.open),
    (s) => s.open ?? -1,
  ),
  column(
    "rate",
    "Conn/s",
    "Connections per second",
    (s) => ratePerSecond(s.rates.connections),
    (s) => s.rates.connections ?? -1,
  ),
  column(
    "total",
    "Total",
    "Connections so far",
    (s) => counted(s.total),
    (s) => s.total ?? -1,
  ),
  column(
    "tx_rate",
    "To server",
    "Bytes per second to the server",
    (s) => sizePerSecond(s.rates.tx),
    (s) => s.rates.tx,
  ),
  column(
    "rx_rate",
    "To clients",
    "Bytes per second to clients",
    (s) => sizePerSecond(s.rates.rx),
    (s) => s.rates.rx ?? -1,
  ),
  column(
    "tx",
    "Bytes to server",
    "Bytes to the server",
    (s) => size(s.tx),
    (s) => s.tx,
    { wide: true },
  ),
  column(
    "rx",
    "Bytes to clients",
    "Bytes to clients",
    (s) => size(s.rx),
    (s) => s.rx ?? -1,
    { wide: true },
  ),
  column(
    CHECK,
    "Last check",
    "Last check",
    ({ check }) => (check === null ? "not yet" : `${check.answer} ${millis(check.ms)}`),
    ({ check }) => check?.ms ?? -1,
    { numeric: false },
  ),
];

/** Servers in the order of a column, "-" in front for the largest first; as they are for an unknown one. */
export function sorted(servers: readonly Server[], sort: string): readonly Server[] {
  const descending = sort.startsWith("-");
  const id = descending ? sort.slice(1) : sort;
  const key = id === "name" ? (s: Server) => s.name : COLUMNS.find((one) => one.id === id)?.key;
  if (key === undefined) return servers;
  const sign = descending ? -1 : 1;
  return [...servers].sort((a, b) => sign * compare(key(a), key(b)) || a.index - b.index);
}

/** s2 comes before s10. */
const collator = new Intl.Collator("en", { numeric: true });

function compare(a: number | string, b: number | string): number {
  return typeof a === "number" && typeof b === "number" ? a - b : collator.compare(String(a), String(b));
}

/** Whether a server is one of those looked for. */
export function matches(server: Server, q: string): boolean {
  if (q === "") return true;
  const text = `${server.key} ${server.addr} ${server.state} ${server.why} ${server.check?.answer ?? ""}`;
  return q
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.toLowerCase().includes(word));
}

const wide = matchMedia("(min-width: 1501px)");

/** Lets a cell span every column that the window shows, also when it gets another size. */
export function spanning<Cell extends HTMLTableCellElement>(cell: Cell): Cell {
  cell.dataset.spans = "all";
  cell.colSpan = columnsShown();
  return cell;
}

/** The name before and the checks behind count, too. */
const columnsShown = (): number => COLUMNS.filter((one) => wide.matches || one.wide !== true).length + 2;

wide.addEventListener("change", () => {
  for (const cell of document.querySelectorAll<HTMLTableCellElement>("[data-spans]"))
    cell.colSpan = columnsShown();
});
