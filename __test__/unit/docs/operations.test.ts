import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ENVIRONMENT_VARIABLES, environmentOverrides } from "../../../ts/config/overrides.ts";

const ROOT = join(import.meta.dirname, "../../..");
const read = (file: string) => readFileSync(join(ROOT, file), "utf8");

const filesOf = (folder: string, extension: string): string[] =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(extension) && !name.startsWith("bootstrap"))
    .map((name) => join(folder, name));

const section = (name: string): string => {
  const [, text = ""] = read("ts/README.md").split(new RegExp(`<!-- ${name}:(?:begin|end) -->`));
  return text;
};

const sorted = (names: Iterable<string>): string[] => [...new Set(names)].sort();

test("every variable that is read stands in the table, and every one of the table is read", () => {
  const sources = [
    ...filesOf("ts", ".ts"),
    ...readdirSync(join(ROOT, "crates")).flatMap((crate) => {
      const folder = join("crates", crate, "src");
      return crate.includes(".") || crate === "convey-testkit" ? [] : filesOf(folder, ".rs");
    }),
  ].map(read);
  const asRead = /(?:env(?:ironment)?\.|var(?:_os)?\(")(CONVEY_[A-Z_]+)/g;
  const named = sources.flatMap((text) => [...text.matchAll(asRead)].map(([, name = ""]) => name));
  const documented = [...section("environment").matchAll(/^\| `(CONVEY_[A-Z_]+)`/gm)].map(
    ([, name = ""]) => name,
  );
  expect(sorted([...named, ...ENVIRONMENT_VARIABLES])).toEqual(sorted(documented));
});

test("each variable that stands for a key sets it", () => {
  const rows = [...section("environment").matchAll(/^\| `(CONVEY_[A-Z_]+)` \| `([a-z_.]+)` \|$/gm)];
  expect(rows.length).toBe(ENVIRONMENT_VARIABLES.length);
  for (const [, variable = "", key = ""] of rows) {
    expect(environmentOverrides({ [variable]: "1" }).map(({ path }) => path.join("."))).toEqual([key]);
  }
});

test("every metric stands in the table, and every one of the table is a metric", () => {
  const first = [...section("metrics").matchAll(/^\| (`.+?) \|/gm)].map(([, cell = ""]) => cell);
  const documented = first.flatMap((cell) =>
    [...cell.matchAll(/`([a-z_]+)`/g)].map(([, name]) => `convey_${name}`),
  );
  const text = filesOf("ts/metrics", ".ts").map(read).join("\n");
  const made = [...text.matchAll(/"(convey_[a-z_]+)"/g)].map(([, name = ""]) => name);
  const templates = [...text.matchAll(/`convey_\$\{what\}_([a-z_]+)`/g)].flatMap(([, name]) =>
    ["frontend", "backend", "server"].map((what) => `convey_${what}_${name}`),
  );
  expect(sorted(documented)).toEqual(sorted([...made, ...templates]));
});
