/** What zod refused, in our words: key by key, with what was found and what was expected. */
import type { z } from "zod";
import { nearest } from "./nearest.ts";
import { describeValue, type Finding, type KeyPath } from "./problem.ts";
import { expectedAt, keysOf, schemaAt, tables } from "./shape.ts";

export function findingsOf(issues: readonly z.core.$ZodIssue[], input: unknown): Finding[] {
  const findings = issues.flatMap((issue) => {
    const at = issue.path as KeyPath;
    if (issue.code === "unrecognized_keys") return issue.keys.map((key) => unknownKey([...at, key]));
    if (issue.code === "invalid_key") return [badName(at, issue.issues[0]?.message)];
    return [badValue(issue, at, input)];
  });
  // A key that is missing because it is misspelt is one mistake, told where it was written.
  const meant = new Set(
    findings.flatMap(({ at, suggestion }) =>
      suggestion === undefined ? [] : [[...at.slice(0, -1), suggestion].join("\0")],
    ),
  );
  return findings.filter(({ at, point }) => point !== "table" || !meant.has(at.join("\0")));
}

function unknownKey(at: KeyPath): Finding {
  const key = String(at.at(-1));
  const finding: Finding = { severity: "error", at, point: "key", message: "unknown key" };
  const suggestion = nearest(key, keysOf(schemaAt(at.slice(0, -1))) ?? []);
  if (suggestion !== undefined) return { ...finding, suggestion };
  const homes = tables().filter(({ schema }) => Object.hasOwn(schema.shape, key));
  if (homes.length > 0 && homes.length <= 3) {
    const places = homes.map(({ path }) => [...path, key].join("."));
    finding.message = `unknown key here; it belongs at ${places.join(" or ")}`;
  }
  return finding;
}

function badName(at: KeyPath, message: string | undefined): Finding {
  return {
    severity: "error",
    at,
    point: "key",
    message: message ?? "is not a name",
    found: describeValue(at.at(-1)),
  };
}

function badValue(issue: z.core.$ZodIssue, at: KeyPath, input: unknown): Finding {
  const schema = schemaAt(at);
  const expected = schema ? expectedAt(schema) : undefined;
  const value = valueAt(input, at);
  if (value === undefined && at.length > 0) {
    return withExpected({ severity: "error", at, point: "table", message: "is missing" }, expected);
  }
  const found = describeValue(value);
  const finding: Finding = { severity: "error", at, point: "value", message: messageOf(issue, value), found };
  if (at.length === 0) {
    return { ...finding, message: "the configuration is not a table", expected: "a table of settings" };
  }
  if (issue.code === "invalid_value" && typeof value === "string") {
    const suggestion = nearest(value, issue.values.map(String));
    if (suggestion !== undefined) finding.suggestion = suggestion;
  }
  return withExpected(finding, expected);
}

function messageOf(issue: z.core.$ZodIssue, value: unknown): string {
  switch (issue.code) {
    case "custom":
      return issue.message;
    case "too_small":
    case "too_big":
      return typeof value === "string" ? (value === "" ? "is empty" : "is too long") : "is out of range";
    case "invalid_type":
      return issue.expected === "int" && Number.isFinite(value) ? "is not an integer" : "has the wrong type";
    default:
      return typeof value === "string" || Number.isFinite(value)
        ? "is not a value it can have"
        : "has the wrong type";
  }
}

function withExpected(finding: Finding, expected: string | undefined): Finding {
  return expected === undefined ? finding : { ...finding, expected };
}

/** The value at a key path, own keys only; undefined where there is none. */
export function valueAt(input: unknown, path: KeyPath): unknown {
  let value = input;
  for (const key of path) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, key)) return undefined;
    value = (value as Record<PropertyKey, unknown>)[key];
  }
  return value;
}
