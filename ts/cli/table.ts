/** Aligned columns in plain text that fit a width: the least important ones go first, then names are cut. */

export type Column = {
  head: string;
  /** Aligned on the right. */
  numeric?: boolean;
  /** The lowest go first where there is no room. */
  rank: number;
};

const GAP = "  ";
/** A name is not cut below this. */
const SHORTEST = 10;

/** Lines of the table, its heads first. `width` is that of the terminal; without one nothing is cut. */
export function table(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  width = Number.POSITIVE_INFINITY,
): string[] {
  const cells = rows.map((row) => row.map(printable));
  const widths = columns.map(({ head }, i) =>
    Math.max(head.length, ...cells.map((row) => row[i]?.length ?? 0)),
  );
  let shown = columns.map((_, i) => i);
  const total = (): number =>
    shown.reduce((sum, i) => sum + (widths[i] ?? 0), GAP.length * (shown.length - 1));
  while (shown.length > 1 && total() > width) {
    const over = total() - width;
    // Cut the first column where that is enough; it has the names.
    const [first = 0] = shown;
    const least = Math.min(...shown.map((i) => columns[i]?.rank ?? 0));
    if ((widths[first] ?? 0) - over >= SHORTEST) widths[first] = (widths[first] ?? 0) - over;
    else shown = shown.filter((i) => columns[i]?.rank !== least);
  }
  const line = (row: readonly string[]): string =>
    shown
      .map((i) => {
        const room = widths[i] ?? 0;
        const text = cut(row[i] ?? "", room);
        return columns[i]?.numeric ? text.padStart(room) : text.padEnd(room);
      })
      .join(GAP)
      .trimEnd();
  return [line(columns.map(({ head }) => head)), ...cells.map(line)];
}

/** At most `width` characters. */
export const cut = (text: string, width: number): string =>
  text.length <= width ? text : `${text.slice(0, Math.max(0, width - 1))}…`;

/** A name that is made of control characters must not steer the terminal. */
export const printable = (text: string): string => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "�");
