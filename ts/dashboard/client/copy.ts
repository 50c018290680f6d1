/** The page as plain text, for tickets and chats. */
import { clock } from "../format.ts";
import { COLUMNS } from "./columns.ts";
import type { Model } from "./model.ts";
import { counted, size, tally } from "./words.ts";

/** Aligned columns; `visible` are the servers to tell. */
export function asText(model: Model, visible: ReadonlySet<number>): string {
  const { overview, frontends, backends } = model;
  const about = [
    `Convey ${overview.version}`,
    overview.mode,
    ...(overview.engine ? [overview.engine] : []),
    `up ${clock(model.at)}`,
    `configuration ${overview.config_version}`,
  ];
  const lines = [about.join(", "), ""];
  lines.push(
    ...aligned([
      ["FRONTEND", "LISTENS ON", "BACKEND", "OPEN", "TOTAL", "TO SERVERS", "TO CLIENTS"],
      ...frontends.map((f) => [
        f.name,
        f.address || "closed",
        f.backends.join(","),
        counted(f.open),
        counted(f.total),
        size(f.tx),
        size(f.rx),
      ]),
    ]),
  );
  for (const backend of backends) {
    const servers = backend.servers.filter(({ index }) => visible.has(index));
    if (servers.length === 0) continue;
    lines.push("", `${backend.name}: ${tally(backend.servers)}`);
    lines.push(
      ...aligned([
        ["SERVER", ...COLUMNS.map(({ head }) => head.toUpperCase()), "WHY"],
        ...servers.map((server) => [
          server.name,
          ...COLUMNS.map(({ text }) => text(server, model)),
          server.why,
        ]),
      ]),
    );
  }
  return `${lines.join("\n")}\n`;
}

function aligned(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => (row[i] ?? "").length)));
  return rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}
