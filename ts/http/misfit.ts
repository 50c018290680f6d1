/** The answer to a request that does not fit its route's contract. */
import type { ZodError } from "zod";
import { formatPath, inert } from "../config/problem.ts";
import { fail } from "./failure.ts";

/** `where` is the part of the request: "body", "query" or "param". */
export function misfit(where: string, { issues }: Pick<ZodError, "issues">): Response {
  const problems = issues.map(({ path, message }) => ({
    severity: "error" as const,
    path: formatPath([where, ...path.map((key) => (typeof key === "symbol" ? String(key) : key))]),
    message: inert(message),
  }));
  const [first] = problems;
  return fail(400, first ? `${first.path}: ${first.message}` : "the request is invalid", { problems });
}
