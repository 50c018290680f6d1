import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import { jsonSchema } from "../../../ts/config/json-schema.ts";
import { loadConfigText } from "../../../ts/config/load.ts";
import { summary, toToml } from "../../../ts/config/print.ts";
import { configTable } from "../../../ts/config/reference.ts";
import { loadSample, SAMPLES, sampleFile } from "../../support/samples.ts";

test.each(SAMPLES)("the resolved %s sample printed as TOML means the same", async (name) => {
  const config = await loadSample(name);
  const again = await loadConfigText(toToml(config));
  expect(again).toMatchObject({ ok: true });
  if (again.ok) expect(again.config).toEqual(config);
});

test("names that are not bare keys survive printing", async () => {
  const name = 'a "b".c = [é]';
  const result = checkConfig({
    frontends: { [name]: { listen_addr: ":1", backend: name } },
    backends: { [name]: { servers: { [name]: { addr: "10.0.0.1:1" } } } },
  });
  if (!result.ok) throw new Error("refused");
  const again = await loadConfigText(toToml(result.config));
  expect(again).toMatchObject({ ok: true, config: result.config });
});

test("the summary counts", async () => {
  expect(summary(await loadSample("proxy"))).toBe("proxy mode, 2 frontends, 2 backends, 6 servers");
  expect(summary(await loadSample("passthrough"))).toBe("passthrough mode, 1 frontend, 1 backend, 4 servers");
});

test("the committed JSON Schema is the output of `convey schema`", async () => {
  const committed = await readFile(sampleFile("convey.schema.json"), "utf8");
  expect(committed).toBe(`${JSON.stringify(jsonSchema(), undefined, 2)}\n`);
});

interface Node {
  description?: string;
  properties?: Record<string, Node>;
  additionalProperties?: Node | false;
}

test("every key of the JSON Schema is described", () => {
  const bare: string[] = [];
  const visit = (path: string, node: Node): void => {
    if (node.description === undefined) bare.push(path);
    for (const [key, child] of Object.entries(node.properties ?? {})) visit(`${path}.${key}`, child);
    if (typeof node.additionalProperties === "object") visit(`${path}.*`, node.additionalProperties);
  };
  visit("", jsonSchema() as Node);
  expect(bare).toEqual([]);
});

test("the JSON Schema tells units, defaults and what is required", () => {
  expect(jsonSchema()).toMatchObject({
    $schema: "http://json-schema.org/draft-07/schema#",
    required: ["frontends", "backends"],
    additionalProperties: false,
    properties: {
      shutdown: {
        properties: {
          drain_timeout_ms: {
            type: "integer",
            default: 30_000,
            description: expect.stringMatching(/^Milliseconds .* Default: 30000\.$/),
          },
        },
      },
      frontends: {
        additionalProperties: {
          required: ["backend"],
          oneOf: [{ required: ["listen"] }, { required: ["listen_addr"] }],
        },
      },
    },
  });
});

test("the address patterns for editors accept what is accepted", () => {
  const schema = jsonSchema() as {
    properties: Record<string, { additionalProperties: Record<string, never> }>;
  };
  const text = JSON.stringify(schema);
  const patterns = [...text.matchAll(/"pattern":("(?:[^"\\]|\\.)*")/g)].map((match) =>
    JSON.parse(match[1] as string),
  );
  const addresses = patterns.filter((pattern: string) => pattern.includes("A-Fa-f"));
  expect(addresses).toHaveLength(4);
  for (const pattern of addresses) {
    const expression = new RegExp(pattern, "u");
    for (const address of ["127.0.0.1:80", "[::1]:3000", "[::ffff:10.0.0.1]:1"])
      expect(address).toMatch(expression);
    expect("a name:80").not.toMatch(expression);
  }
  const expressions = addresses.map((pattern) => new RegExp(pattern as string, "u"));
  const listener = expressions[0];
  const server = expressions.find((expression) => expression.test("localhost:80"));
  for (const address of [
    "localhost:80",
    "App-1.internal.:80",
    "_http._tcp.app",
    "unix:/run/a.sock",
    "unix:@a",
  ]) {
    expect(address).toMatch(server as RegExp);
    expect(address).not.toMatch(listener as RegExp);
  }
  expect(":80").toMatch(new RegExp(addresses[0] as string, "u"));
});

test("the reference has a row for every key, with type, default and meaning", () => {
  const rows = configTable().split("\n");
  expect(rows[0]).toBe("| Key | Type | Default | Meaning |");
  expect(rows).toContain(
    "| `backends.<name>.servers.<name>.weight` | integer, 0 to 65535 | `1` | Share of new connections relative to the other servers; 0 takes it out of rotation. |",
  );
  for (const row of rows) expect(row).toMatch(/^\|( [^|]+ \|){4}$/);
  expect(rows.filter((row) => row.includes("| required |")).map((row) => row.split(" ")[1])).toEqual([
    "`frontends.<name>.backend`",
    "`backends.<name>.servers.<name>.addr`",
    "`stats.port`",
  ]);
});
