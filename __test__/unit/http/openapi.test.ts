import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { openapiDocument } from "../../../ts/http/document.ts";
import { ROUTES } from "../../../ts/http/routes/index.ts";

const document = JSON.parse(JSON.stringify(openapiDocument()));

test("samples/openapi.json is the document of the routes; `convey schema --openapi` makes it", () => {
  const sample = new URL("../../../samples/openapi.json", import.meta.url);
  expect(JSON.parse(readFileSync(sample, "utf8"))).toEqual(document);
});

test("every route is in the document, with an id of its own, a summary and the shape of its errors", () => {
  const ids = new Set<string>();
  for (const { config } of ROUTES) {
    const operation = document.paths[config.path]?.[config.method];
    expect(operation, `${config.method} ${config.path}`).toMatchObject({ operationId: config.operationId });
    expect(operation.summary).toMatch(/\.$/);
    expect(operation.responses.default.content["application/json"].schema.$ref).toBe(
      "#/components/schemas/Error",
    );
    ids.add(config.operationId);
  }
  expect(ids.size).toBe(ROUTES.length);
});
