/** From a configuration with names to one with addresses, in every mode. */
import { expect, test } from "vitest";
import { checkConfig } from "../../../../ts/config/check.ts";
import type { Config, ConfigInput } from "../../../../ts/config/schema.ts";
import { type Expansion, expand } from "../../../../ts/control/dns/expand.ts";
import type { Lookup, Resolved } from "../../../../ts/control/dns/lookup.ts";

function config(servers: ConfigInput["backends"][string]["servers"], mode: Config["mode"] = "proxy"): Config {
  const checked = checkConfig({
    mode,
    frontends: { web: { listen_addr: "192.0.2.1:80", backend: "pool" } },
    backends: { pool: { check: "address", servers } },
  });
  if (!checked.ok) throw new Error(checked.problems.map(({ message }) => message).join());
  return checked.config;
}

const known = (names: Record<string, Resolved[]>) => (addr: string) => {
  const addresses = names[addr];
  if (addresses === undefined) return undefined;
  const look = () => ({ state: "resolved", cause: "", cut: false }) as const;
  return { addresses: () => addresses, look } as unknown as Lookup;
};

const at = (host: string, more: Partial<Resolved> = {}): Resolved => ({ host, port: 80, ...more });
const servers = ({ config: { backends } }: Expansion) => backends.pool?.servers;
const name = { addr: "app.test:80", weight: 3, max_connections: 9 };

test("a configuration without names is the one that serves", () => {
  const plain = config({ a: { addr: "10.0.0.1:80" } });
  expect(expand(plain, known({}), undefined).config).toBe(plain);
});

test("addresses stand in the place of their name, with its settings, beside the other servers", () => {
  const expansion = expand(
    config({ a: { addr: "10.0.0.9:80" }, b: name, c: { addr: "10.0.0.8:80" } }),
    known({ "app.test:80": [at("10.0.0.1"), at("2001:db8::1")] }),
    undefined,
  );
  expect(Object.keys(servers(expansion) ?? {})).toEqual(["a", "b@10.0.0.1:80", "b@[2001:db8::1]:80", "c"]);
  expect(servers(expansion)?.["b@10.0.0.1:80"]).toEqual({
    addr: "10.0.0.1:80",
    weight: 3,
    max_connections: 9,
    backup: false,
  });
  expect(expansion.origins.get("pool/b@10.0.0.1:80")).toBe("pool/b");
});

test.each(["passthrough", "dsr"] as const)(
  "in %s mode what packets cannot be sent to is left out",
  (mode) => {
    const { named, ...expansion } = expand(
      config({ b: { addr: "app.test:80" } }, mode),
      known({ "app.test:80": [at("10.0.0.1"), at("127.0.0.1"), at("2001:db8::1")] }),
      undefined,
    );
    expect(Object.keys(servers({ named, ...expansion }) ?? {})).toEqual(["b@10.0.0.1:80"]);
    expect(Object.fromEntries(named.get("pool/b")?.leftOut ?? [])).toEqual({
      "127.0.0.1:80": expect.stringContaining("on the balancer's own machine"),
      "[2001:db8::1]:80": 'is not of the address family of frontend "web"',
    });
  },
);

test("in dsr mode an SRV record's port is the frontend's, or its address is left out", () => {
  const expansion = expand(
    config({ b: { addr: "_http._tcp.app.test" } }, "dsr"),
    known({ "_http._tcp.app.test": [at("10.0.0.1"), { host: "10.0.0.2", port: 81 }] }),
    undefined,
  );
  expect(Object.keys(servers(expansion) ?? {})).toEqual(["b@10.0.0.1:80"]);
});

test("weights of SRV records take the place of the configured one, which 0 keeps out all the same", () => {
  const records = [at("10.0.0.1", { priority: 1, weight: 7 }), at("10.0.0.2", { priority: 1, weight: 0 })];
  const weights = (weight: number, all: Resolved[]) =>
    Object.values(
      servers(
        expand(config({ b: { addr: "_a._tcp.test", weight } }), known({ "_a._tcp.test": all }), undefined),
      ) ?? {},
    ).map((it) => it.weight);
  expect(weights(3, records)).toEqual([7, 1]);
  expect(weights(0, records)).toEqual([0, 0]);
  expect(
    weights(
      3,
      records.map((it) => ({ ...it, weight: 0 })),
    ),
  ).toEqual([3, 3]);
  expect(weights(3, [...records, at("10.0.0.3", { priority: 2, weight: 9 })])).toEqual([7, 1, 9]);
});

test("SRV records of another than the best priority are backups, and first takes one of the best", () => {
  const records = [
    at("10.0.0.1", { priority: 1, weight: 0 }),
    at("10.0.0.2", { priority: 5, weight: 4 }),
    at("10.0.0.3", { priority: 9, weight: 0 }),
  ];
  const made = (settings: { resolve?: "first"; backup?: boolean }) =>
    Object.values(
      servers(
        expand(
          config({ b: { addr: "_a._tcp.test", weight: 3, ...settings } }),
          known({ "_a._tcp.test": records }),
          undefined,
        ),
      ) ?? {},
    ).map(({ addr, backup, weight }) => [addr, backup, weight]);
  expect(made({})).toEqual([
    ["10.0.0.1:80", false, 3],
    ["10.0.0.2:80", true, 4],
    ["10.0.0.3:80", true, 3],
  ]);
  expect(made({ backup: true }).map(([, backup]) => backup)).toEqual([true, true, true]);
  expect(made({ resolve: "first" })).toEqual([["10.0.0.1:80", false, 3]]);
});

test("with resolve = first the address that serves stays while the name has it", () => {
  const one = config({ b: { addr: "app.test:80", resolve: "first" } });
  const addr = (list: Resolved[], before?: Expansion) => {
    const expansion = expand(one, known({ "app.test:80": list }), before);
    return [servers(expansion)?.b?.addr, expansion] as const;
  };
  const [first, before] = addr([at("10.0.0.5")]);
  const [second, then] = addr([at("10.0.0.1"), at("10.0.0.5")], before);
  const [third] = addr([at("10.0.0.1")], then);
  expect([first, second, third]).toEqual(["10.0.0.5:80", "10.0.0.5:80", "10.0.0.1:80"]);
});

test("a name of which nothing is known is a server without an address", () => {
  const expansion = expand(config({ b: name }), known({}), undefined);
  expect([servers(expansion), expansion.named.get("pool/b")?.addresses.size]).toEqual([{}, 0]);
});
