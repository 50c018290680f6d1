import { existsSync, readdirSync, readFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { configTable, TABLE_BEGIN, TABLE_END } from "../../../ts/config/reference.ts";

const ROOT = join(import.meta.dirname, "../../..");
const read = (file: string) => readFileSync(join(ROOT, file), "utf8");

/** Every text for readers, wherever it stands; fixtures have their own. */
const DOCUMENTS = [
  ...[".", "crates"].flatMap((folder) => readdirSync(join(ROOT, folder)).map((name) => join(folder, name))),
  ...readdirSync(join(ROOT, "crates")).map((crate) => join("crates", crate, "README.md")),
  ...["samples", "ts", "__test__"].flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" }).map((name) => join(folder, name)),
  ),
].filter((file) => file.endsWith(".md") && existsSync(join(ROOT, file)));

test("the table of all keys is the one made from the schema", () => {
  const text = read("samples/README.md");
  const begin = text.indexOf(TABLE_BEGIN) + TABLE_BEGIN.length;
  const end = text.indexOf(TABLE_END);
  expect(text.slice(begin, end).trim()).toBe(
    configTable().replace(TABLE_BEGIN, "").replace(TABLE_END, "").trim(),
  );
});

test("the README is read in five minutes: 200 lines at most", () => {
  expect(read("README.md").trimEnd().split("\n").length).toBeLessThanOrEqual(200);
});

/** What a heading is linked by: lower case, words joined by hyphens, punctuation left out. */
const anchor = (heading: string) =>
  heading
    .toLowerCase()
    .replace(/[^\w\s-]/g, "")
    .trim()
    .replaceAll(" ", "-");

describe.each(DOCUMENTS)("%s", (file) => {
  const links = [...read(file).matchAll(/\]\((?!https?:)([^)\s]+)\)/g)].map((match) => match[1] ?? "");

  test("every link into the repository leads to a file and a heading", async () => {
    for (const link of links) {
      const [path = "", fragment] = link.split("#");
      const target = path === "" ? file : join(dirname(file), path);
      await stat(join(ROOT, target));
      if (fragment === undefined) continue;
      const headings = [...read(target).matchAll(/^#+ (.*)$/gm)].map((match) => anchor(match[1] ?? ""));
      expect(headings, link).toContain(fragment);
    }
  });
});
