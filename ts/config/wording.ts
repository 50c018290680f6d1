/** How types that only a check knows are read and put into words. */
import { z } from "zod";

/**
 * What a value must be, in words, for types that only a check knows: `type` for the reference, `expected`
 * for problems, `pattern` for editors, which accepts at least what the check does.
 */
export const wording = z.registry<{ type: string; expected: string; pattern?: string }>();

/** A string that `parse` reads; what it returns is the value from then on. */
export function readString(
  parse: (text: string) => { ok: true; value: string } | { ok: false; message: string },
) {
  return z.string().transform((text, context) => {
    const parsed = parse(text);
    if (parsed.ok) return parsed.value;
    context.issues.push({ code: "custom", message: parsed.message, input: text });
    return z.NEVER;
  });
}
