/** What the compiler knows of a balancer's names; `npm run typecheck` judges, running it proves little. */
import { expectTypeOf, test } from "vitest";
import { type Balancer, type Config, type ConfigInput, createBalancer } from "../../../ts/index.ts";

/** Never called: the types of what it returns are the test. */
const literal = () =>
  createBalancer({
    frontends: {
      web: { listen_addr: "127.0.0.1:0", backend: "app" },
      api: { listen_addr: "127.0.0.1:0", backend: "other" },
    },
    backends: {
      app: { servers: { one: { addr: "127.0.0.1:1" }, two: { addr: "127.0.0.1:2", weight: 2 } } },
      other: { retries: 1, servers: { three: { addr: "127.0.0.1:3" } } },
    },
    interfaces: ["eth0"],
  });
type Literal = Awaited<ReturnType<typeof literal>>;

test("names of a literal configuration are known, servers with their backend", () => {
  expectTypeOf<Parameters<Literal["address"]>[0]>().toEqualTypeOf<"web" | "api">();
  expectTypeOf<Parameters<Literal["server"]>[0]>().toEqualTypeOf<"app/one" | "app/two" | "other/three">();
  expectTypeOf<Parameters<Literal["drain"]>[0]>().toEqualTypeOf<"app/one" | "app/two" | "other/three">();
  expectTypeOf<Parameters<Literal["enable"]>[0]>().toEqualTypeOf<"app/one" | "app/two" | "other/three">();
  expectTypeOf<Parameters<Literal["setWeight"]>[0]>().toEqualTypeOf<"app/one" | "app/two" | "other/three">();
  expectTypeOf<Parameters<Literal["removeServer"]>[0]>().toEqualTypeOf<
    "app/one" | "app/two" | "other/three"
  >();
  expectTypeOf<Parameters<Literal["setServers"]>[0]>().toEqualTypeOf<"app" | "other">();
  expectTypeOf<Parameters<Literal["addServer"]>[0]>().toEqualTypeOf<"app" | "other">();
});

test("any balancer is a Balancer, which takes every name", () => {
  expectTypeOf<Literal>().toExtend<Balancer>();
  expectTypeOf<Parameters<Balancer["server"]>[0]>().toEqualTypeOf<string>();
});

test("where the type tells no names they are strings", () => {
  const wide = (config: Config) => createBalancer(config);
  const input = (config: ConfigInput) => createBalancer(config);
  const file = () => createBalancer({ configFile: "web.toml" });
  const fromFile = () => createBalancer.fromFile("web.toml", { watch: false });
  for (const make of [wide, input, file, fromFile]) {
    type Made = Awaited<ReturnType<typeof make>>;
    expectTypeOf<Parameters<Made["server"]>[0]>().toEqualTypeOf<string>();
    expectTypeOf<Parameters<Made["address"]>[0]>().toEqualTypeOf<string>();
  }
});

test("computed servers of a named backend keep the backend", () => {
  const computed = (servers: Record<string, { addr: string }>) =>
    createBalancer({
      frontends: { web: { listen_addr: ":80", backend: "app" } },
      backends: { app: { servers } },
    });
  type Computed = Awaited<ReturnType<typeof computed>>;
  expectTypeOf<Parameters<Computed["server"]>[0]>().toEqualTypeOf<`app/${string}`>();
});

test("frozen configurations are taken, too", () => {
  const config = {
    frontends: { web: { listen_addr: ":80", backend: "app" } },
    backends: { app: { servers: { one: { addr: "127.0.0.1:1" } } } },
    interfaces: ["eth0"],
  } as const;
  const frozen = () => createBalancer(config);
  expectTypeOf<Parameters<Awaited<ReturnType<typeof frozen>>["drain"]>[0]>().toEqualTypeOf<"app/one">();
});

test("what is misspelt is an error", () => {
  const servers = { one: { addr: "127.0.0.1:1" } };
  const frontends = { web: { listen_addr: ":80", backend: "app" as const } };
  void (() => {
    // @ts-expect-error no such key of a server
    createBalancer({ frontends, backends: { app: { servers: { a: { addr: "127.0.0.1:1", wieght: 2 } } } } });
    // @ts-expect-error no such key of a backend
    createBalancer({ frontends, backends: { app: { servers, retrys: 2 } } });
    // @ts-expect-error no such table
    createBalancer({ frontends, backends: { app: { servers } }, limit: {} });
    const weight = "2";
    // @ts-expect-error a weight is a number
    createBalancer({ frontends, backends: { app: { servers: { a: { addr: "127.0.0.1:1", weight } } } } });
  });
  void (async () => {
    const lb = await literal();
    // @ts-expect-error no such frontend
    lb.address("wbe");
    // @ts-expect-error no such server of that backend
    lb.server("app/three");
    // @ts-expect-error a server is named with its backend
    await lb.drain("one");
    const any: Balancer = lb;
    any.server("app/added-later");
  });
});
