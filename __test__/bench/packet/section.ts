/** What is measured once, beside the rounds. */
export interface Section {
  name: string;
  /** Markdown. */
  lines: string[];
  /** For the JSON. */
  figures: unknown;
}

/** Lines that a program printed, as they are. */
export function printed(name: string, title: string, lines: readonly string[]): Section {
  return { name, lines: [`### ${title}`, "", "```text", ...lines, "```"], figures: lines };
}
