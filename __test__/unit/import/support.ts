import { parse } from "smol-toml";
import { Leftovers } from "../../../ts/import/draft.ts";
import { fromHaproxy } from "../../../ts/import/haproxy.ts";
import type { Program } from "../../../ts/import/index.ts";
import { fromNginx } from "../../../ts/import/nginx.ts";
import { draftToToml } from "../../../ts/import/toml.ts";

/** What a text means before it is judged: tables as written, and what was left as `line: message`. */
// biome-ignore lint/suspicious/noExplicitAny: tables of TOML, whose shape each test knows
export function meaning(text: string, from: Program): { toml: any; left: string[] } {
  const left = new Leftovers(text);
  const draft = from === "haproxy" ? fromHaproxy(text, left) : fromNginx(text, left);
  const toml = parse(draftToToml(draft, from));
  return { toml, left: left.list().map(({ line, message }) => `${line}: ${message}`) };
}
