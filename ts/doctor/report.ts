/** Findings for people: one line for what is well, what was read and what to do for the rest. */
import type { Finding, Severity } from "./finding.ts";

const COLOR: Record<Severity, string> = { ok: "32", notice: "36", warning: "33", error: "31" };
const WIDTH = Math.max(...Object.keys(COLOR).map((word) => word.length)) + 2;

export interface ReportOptions {
  color: boolean;
  /** How what can be fixed is fixed; undefined where nothing is. */
  fixBy?: string;
}

/** The text, which ends with a newline. */
export function report(findings: readonly Finding[], { color, fixBy }: ReportOptions): string {
  const lines = findings.flatMap(({ severity, check, title, evidence, consequence, remedy, fix }) => {
    const word = severity.padEnd(WIDTH);
    const head = `${color ? `\u001b[${COLOR[severity]}m${word}\u001b[0m` : word}${check}: ${title}`;
    if (severity === "ok") return [`${head} (${evidence})`];
    const fixed = fix.length > 0 && fixBy !== undefined ? `   (or: ${fixBy})` : "";
    const parts: [string, string][] = [
      ["read", evidence],
      ["so", consequence],
      ["do", `${remedy}${fixed}`],
    ];
    return [
      head,
      ...parts
        .filter(([, text]) => text !== "")
        .map(([label, text]) => `${" ".repeat(WIDTH)}${`${label}:`.padEnd(6)}${text}`),
    ];
  });
  return `${[...lines, tally(findings)].join("\n")}\n`;
}

function tally(findings: readonly Finding[]): string {
  const count = (severity: Severity): number =>
    findings.filter((finding) => finding.severity === severity).length;
  const words = (["error", "warning", "notice"] as const).map((severity) => {
    const n = count(severity);
    return `${n} ${severity}${n === 1 ? "" : "s"}`;
  });
  return `${words.join(", ")}, ${count("ok")} ok`;
}

/** Whether traffic fails by something that was found. */
export function hasErrors(findings: readonly Finding[]): boolean {
  return findings.some(({ severity }) => severity === "error");
}
