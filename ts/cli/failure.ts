/** Turns what stopped a command into text for people. Errors with a code say themselves what to try. */

/** Text for standard error, ending in a newline. Errors nobody foresaw keep their stack. */
export function failureText(error: unknown): string {
  if (error instanceof Error && "code" in error && typeof error.code === "string") {
    return `convey: ${error.message}\n`;
  }
  const told = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return `convey: unexpected failure: ${told}\n`;
}
