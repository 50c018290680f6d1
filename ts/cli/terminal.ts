/** Whether to colour what goes to a terminal; NO_COLOR (no-color.org) wins. */
export function useColor(terminal: boolean): boolean {
  return terminal && !process.env.NO_COLOR && process.env.TERM !== "dumb";
}
