import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { configTable, TABLE_BEGIN, TABLE_END } from "../../../ts/config/reference.ts";

const readme = await readFile(new URL("../../../README.md", import.meta.url), "utf8");

test("the README's configuration table is the one made from the schema", () => {
  const begin = readme.indexOf(TABLE_BEGIN) + TABLE_BEGIN.length;
  const end = readme.indexOf(TABLE_END);
  expect(readme.slice(begin, end).trim()).toBe(
    configTable().replace(TABLE_BEGIN, "").replace(TABLE_END, "").trim(),
  );
});

test("every link of the README into the repository leads somewhere", async () => {
  const targets = [...readme.matchAll(/\]\((?!https?:|#)([^)]+)\)/g)].map((match) => match[1] ?? "");
  expect(targets.length).toBeGreaterThan(3);
  for (const target of targets) await readFile(new URL(`../../../${target}`, import.meta.url));
});
