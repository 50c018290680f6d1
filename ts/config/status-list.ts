/** Statuses of HTTP as people list them: "200-299,301". */
import type { Parsed } from "./address.ts";

/** Ranges of statuses, both ends inclusive. */
export type StatusList = readonly { from: number; to: number }[];

/** Reads numbers from 200 to 599 and ranges of them, separated by commas. */
export function parseStatusList(text: string): Parsed<StatusList> {
  const list: { from: number; to: number }[] = [];
  for (const part of text.split(",")) {
    const match = /^\s*(\d{3})(?:\s*-\s*(\d{3}))?\s*$/.exec(part);
    if (match === null) return { ok: false, message: "is no list of statuses" };
    const from = Number(match[1]);
    const to = Number(match[2] ?? match[1]);
    if (from < 200 || to > 599) return { ok: false, message: "names a status that no answer ends with" };
    if (to < from) return { ok: false, message: "has a range that ends before it begins" };
    list.push({ from, to });
  }
  return { ok: true, value: list };
}

export const isListed = (list: StatusList, status: number): boolean =>
  list.some(({ from, to }) => from <= status && status <= to);
