/** Circles: a server of a frontend that is, in the end, the frontend itself. */
import { expect, test } from "vitest";
import { parseSocketAddress } from "../../../ts/config/address.ts";
import { ELSEWHERE } from "../../../ts/config/host.ts";
import { formatPath } from "../../../ts/config/problem.ts";
import { checkRules } from "../../../ts/config/rules.ts";

interface Front {
  listen: string;
  servers: string[];
  protocol?: string;
}

/** Errors of a configuration in which each frontend has a backend of its own, on a host with these addresses. */
function errors(fronts: Record<string, Front>, top: object = {}, own: string[] = []): string[] {
  const names = Object.entries(fronts);
  const input = {
    ...top,
    frontends: Object.fromEntries(
      names.map(([name, { listen, protocol = "tcp" }]) => [
        name,
        { listen_addr: listen, backend: name, protocol },
      ]),
    ),
    backends: Object.fromEntries(
      names.map(([name, { servers }]) => [
        name,
        { servers: Object.fromEntries(servers.map((addr, i) => [`s${i + 1}`, { addr }])) },
      ]),
    ),
  };
  return checkRules(input, { ...ELSEWHERE, addresses: new Set(own) })
    .filter(({ severity }) => severity === "error")
    .map(({ at, message }) => `${formatPath(at)}: ${message}`);
}

const one = (listen: string, server: string, own: string[] = []) =>
  errors({ web: { listen, servers: [server] } }, {}, own);

test.each([
  ["127.0.0.1:3000", "127.0.0.1:3000"],
  ["[::1]:3000", "[0:0::1]:3000"],
  [":3000", "127.0.0.1:3000"],
  [":3000", "127.9.9.9:3000"],
  ["0.0.0.0:3000", "127.0.0.1:3000"],
  ["[::]:3000", "[::1]:3000"],
  ["127.0.0.1:3000", "[::ffff:127.0.0.1]:3000"],
  ["[::ffff:127.0.0.1]:3000", "127.0.0.1:3000"],
  [":3000", "[::ffff:7f00:1]:3000"],
  ["[::ffff:0.0.0.0]:3000", "127.0.0.1:3000"],
])("a frontend on %s with the server %s is its own server", (listen, server) => {
  const [line, ...more] = one(listen, server);
  expect(more).toEqual([]);
  expect(line).toMatch(
    /^backends\.web\.servers\.s1\.addr: is where frontend "web" itself listens.*: connections would go in a circle$/,
  );
});

test.each([
  [":3000", "127.0.0.1:3001"],
  [":3000", "[::1]:3000"],
  ["[::]:3000", "127.0.0.1:3000"],
  ["127.0.0.1:3000", "127.0.0.2:3000"],
  [":0", "127.0.0.1:3000"],
  [":3000", "192.0.2.1:3000"],
])("a frontend on %s with the server %s is accepted", (listen, server) => {
  expect(parseSocketAddress(server, { wildcard: false }).ok).toBe(true);
  expect(one(listen, server)).toEqual([]);
});

test("a wildcard with one of this host's own addresses is a circle, with any other it is none", () => {
  const own = ["192.0.2.1", "2001:db8::1"];
  expect(one(":3000", "192.0.2.1:3000", own)).toEqual([
    'backends.web.servers.s1.addr: is where frontend "web" itself listens (0.0.0.0:3000 takes 192.0.2.1, since it is an address of this host): connections would go in a circle',
  ]);
  expect(one("[::]:3000", "[2001:db8::1]:3000", own)).toHaveLength(1);
  expect(one(":3000", "192.0.2.2:3000", own)).toEqual([]);
});

test("an address on which another frontend listens is this host's, whoever asks", () => {
  const fronts = {
    all: { listen: ":3000", servers: ["192.0.2.1:3000"] },
    one: { listen: "192.0.2.1:80", servers: ["198.51.100.1:80"] },
  };
  expect(errors(fronts)).toEqual([
    'backends.all.servers.s1.addr: is where frontend "all" itself listens (0.0.0.0:3000 takes 192.0.2.1, since frontend "one" listens on it): connections would go in a circle',
  ]);
});

test("two frontends that are each other's servers are told at both places", () => {
  const fronts = {
    a: { listen: "127.0.0.1:3000", servers: ["127.0.0.1:3001"] },
    b: { listen: "127.0.0.1:3001", servers: ["127.0.0.1:8080", "127.0.0.1:3000"] },
  };
  expect(errors(fronts)).toEqual([
    'backends.a.servers.s1.addr: is where frontend "b" listens, which leads back to frontend "a": connections would go in a circle',
    'backends.b.servers.s2.addr: is where frontend "a" listens, which leads back to frontend "b": connections would go in a circle',
  ]);
});

test("a longer circle names the frontends it leads through", () => {
  const fronts = Object.fromEntries(
    ["a", "b", "c", "d"].map((name, i) => [
      name,
      { listen: `127.0.0.1:${3000 + i}`, servers: [`127.0.0.1:${3000 + ((i + 1) % 4)}`] },
    ]),
  );
  const lines = errors(fronts);
  expect(lines).toHaveLength(4);
  expect(lines[0]).toBe(
    'backends.a.servers.s1.addr: is where frontend "b" listens, which leads back to frontend "a" through "c", "d": connections would go in a circle',
  );
});

test("a chain of frontends that ends at a server is accepted, and so are two chains that meet", () => {
  const fronts = {
    a: { listen: "127.0.0.1:3000", servers: ["127.0.0.1:3001", "127.0.0.1:3002"] },
    b: { listen: "127.0.0.1:3001", servers: ["127.0.0.1:3002"] },
    c: { listen: "127.0.0.1:3002", servers: ["127.0.0.1:8080"] },
  };
  expect(errors(fronts)).toEqual([]);
});

test("a chain that leads into another's circle is told only within the circle", () => {
  const fronts = {
    outside: { listen: "127.0.0.1:2999", servers: ["127.0.0.1:3000"] },
    a: { listen: "127.0.0.1:3000", servers: ["127.0.0.1:3001"] },
    b: { listen: "127.0.0.1:3001", servers: ["127.0.0.1:3000"] },
  };
  expect(errors(fronts).map((line) => line.split(":")[0])).toEqual([
    "backends.a.servers.s1.addr",
    "backends.b.servers.s1.addr",
  ]);
});

test("a backend of two frontends is told once", () => {
  const input = {
    frontends: {
      a: { listen_addr: "127.0.0.1:3000", backend: "pool" },
      b: { listen_addr: "127.0.0.1:3001", backend: "pool" },
    },
    backends: { pool: { servers: { s1: { addr: "127.0.0.1:3000" } } } },
  };
  expect(checkRules(input).filter(({ severity }) => severity === "error")).toHaveLength(1);
});

test("a weight of 0 does not make a circle harmless, since the checks connect", () => {
  const input = {
    frontends: { web: { listen_addr: ":3000", backend: "pool" } },
    backends: { pool: { servers: { s1: { addr: "127.0.0.1:3000", weight: 0 } } } },
  };
  expect(checkRules(input).filter(({ severity }) => severity === "error")).toHaveLength(1);
});

test.each([
  ["127.0.0.1", "127.0.0.1:7000"],
  ["0.0.0.0", "127.0.0.1:7000"],
  ["::", "[::1]:7000"],
  ["::", "127.0.0.1:7000"],
])("the HTTP server on %s is no server of a frontend, as %s", (bind, server) => {
  const lines = errors({ web: { listen: ":80", servers: [server] } }, { stats: { port: 7000, bind } });
  expect(lines).toEqual([
    "backends.web.servers.s1.addr: is where the HTTP server of [stats] listens: it would take every client for one on this machine",
  ]);
});

test.each(["passthrough", "dsr"])("in %s mode a server on the balancer's own machine is refused", (mode) => {
  const lines = (server: string, own: string[] = []) =>
    errors({ web: { listen: "192.0.2.1:80", servers: [server] } }, { mode }, own);
  const because = (why: string) => [
    `backends.web.servers.s1.addr: is on the balancer's own machine (${why}), which ${mode} mode cannot reach`,
  ];
  expect(lines("127.0.0.1:80")).toEqual(because("it is a loopback address"));
  expect(lines("192.0.2.1:80")).toEqual(because('frontend "web" listens on it'));
  expect(lines("192.0.2.9:80", ["192.0.2.9"])).toEqual(because("it is an address of this host"));
  expect(lines("192.0.2.10:80", ["192.0.2.9"])).toEqual([]);
});

test("a thousand frontends in a chain are judged at once", () => {
  const chain = Object.fromEntries(
    Array.from({ length: 1000 }, (_, i) => [
      `f${i}`,
      { listen: `127.0.0.1:${1000 + i}`, servers: [`127.0.0.1:${1001 + i}`] },
    ]),
  );
  const begun = performance.now();
  expect(errors(chain)).toEqual([]);
  expect(performance.now() - begun).toBeLessThan(5000);
});
