/** Bytes as people write them: UTF-8 with escapes for what cannot be typed. */
import type { Parsed } from "./address.ts";

const ESCAPES: Record<string, number> = { r: 0x0d, n: 0x0a, t: 0x09, "0": 0x00, "\\": 0x5c };

/** Reads `\r`, `\n`, `\t`, `\0`, `\\` and `\xHH`; every other backslash is an error. */
export function parseBytes(text: string): Parsed<Buffer> {
  const parts: Buffer[] = [];
  let from = 0;
  for (let at = text.indexOf("\\"); at >= 0; at = text.indexOf("\\", from)) {
    parts.push(Buffer.from(text.slice(from, at)));
    const next = text[at + 1] ?? "";
    const hex = /^x([0-9a-f]{2})/i.exec(text.slice(at + 1, at + 4))?.[1];
    const byte = hex === undefined ? ESCAPES[next] : Number.parseInt(hex, 16);
    if (byte === undefined) {
      const what = next === "" ? "ends with a lone backslash" : `has the unknown escape \\${next}`;
      return { ok: false, message: what };
    }
    parts.push(Buffer.of(byte));
    from = at + (hex === undefined ? 2 : 4);
  }
  parts.push(Buffer.from(text.slice(from)));
  return { ok: true, value: Buffer.concat(parts) };
}
