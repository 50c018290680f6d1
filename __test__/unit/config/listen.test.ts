import { expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import { lower } from "../../../ts/config/lower.ts";
import { LEAST, LEAST_PACKETS, linesOf } from "./support.ts";

const listening = (listen: string, text = LEAST): string =>
  text.replace(/listen_addr = "[^"]*"/, `listen = ${listen}`);

const backends = { pool: { servers: { s1: { addr: "127.0.0.1:8081" } } } };

function native(listen: string | string[]): string[] {
  const checked = checkConfig({ frontends: { web: { listen, backend: "pool" } }, backends });
  if (!checked.ok) throw new Error(JSON.stringify(checked.problems));
  return lower(checked.config).frontends[0]?.listen ?? [];
}

test("several addresses and ranges of ports reach the data plane one by one, in the order written", () => {
  expect(native(["127.0.0.1:80", "[0::1]:80", ":8000-8002"])).toEqual([
    "127.0.0.1:80",
    "[::1]:80",
    "0.0.0.0:8000",
    "0.0.0.0:8001",
    "0.0.0.0:8002",
  ]);
  expect(native(":8000-8001")).toEqual(["0.0.0.0:8000", "0.0.0.0:8001"]);
  expect(native("127.0.0.1:0")).toEqual(["127.0.0.1:0"]);
  expect(native(":64512-65535")).toHaveLength(1024);
});

test.each([
  ["[]", 10, "frontends.web.listen: is empty (found an array, expected"],
  ['":64511-65535"', 10, "frontends.web.listen: has 1025 addresses and ports, more than 1024"],
  ['":8010-8000"', 10, "frontends.web.listen: has a range of ports that ends before it begins"],
  ['":0-10"', 10, "frontends.web.listen: has a range that begins with port 0"],
  ['":8000-70000"', 10, "frontends.web.listen: has a range that ends beyond port 65535"],
  ['["127.0.0.1:80", "224.0.0.1:80"]', 27, "frontends.web.listen.1: is a multicast address"],
  ['["127.0.0.1:80", "[::1]:80", 7]', 10, "frontends.web.listen: has the wrong type"],
  ['["127.0.0.1:80", "::1:80"]', 27, "frontends.web.listen.1: is IPv6 without brackets"],
])("listen = %s is refused at its place", async (written, column, message) => {
  const [line, ...more] = await linesOf(listening(written));
  expect(line).toContain(`t.toml:2:${column}: error: ${message}`);
  expect(more).toEqual([]);
});

test("an address that two entries have is an error that names both", async () => {
  const text = `${listening('["127.0.0.1:80", ":8000-8010"]')}[frontends.other]\nbackend = "pool"\nlisten = ["127.0.0.2:80", "127.0.0.3:8010-8020"]\n`;
  expect(await linesOf(text)).toEqual([
    't.toml:8:27: error: frontends.other.listen.1: overlaps with frontend "web": one of them is the wildcard address on the same port (127.0.0.3:8010 is in ":8000-8010", frontends.web.listen.1) (found "127.0.0.3:8010-8020", expected an address and port of its own)',
  ]);
  expect(await linesOf(listening('["127.0.0.1:8005", ":8000-8010"]'))).toEqual([
    't.toml:2:29: error: frontends.web.listen.1: is listened on twice (0.0.0.0:8005 is in "127.0.0.1:8005", frontends.web.listen.0) (found ":8000-8010", expected an address and port of its own)',
  ]);
  const same = `${listening('"127.0.0.1:80-90"')}[frontends.other]\nbackend = "pool"\nlisten_addr = "127.0.0.1:85"\n`;
  expect(await linesOf(same)).toEqual([
    't.toml:8:15: error: frontends.other.listen_addr: is the address of frontend "web" too (127.0.0.1:85 is in "127.0.0.1:80-90", frontends.web.listen) (found "127.0.0.1:85", expected an address and port of its own)',
  ]);
});

test("port 0 may be asked for more than once, and IPv4 beside IPv6", () => {
  expect(native(["127.0.0.1:0", "127.0.0.1:0"])).toHaveLength(2);
  expect(native([":80", "[::]:80"])).toHaveLength(2);
});

test("listen and listen_addr together are refused, and neither is", async () => {
  const both = LEAST.replace("[backends", 'listen = ":81"\n[backends');
  expect(await linesOf(both)).toEqual([
    't.toml:2:1: error: frontends.web.listen_addr: says where to listen a second time, after listen (found "127.0.0.1:3000", expected all of it in listen)',
  ]);
  const misspelt = LEAST.replace("listen_addr", "lisen");
  expect(await linesOf(misspelt)).toEqual([
    't.toml:2:1: error: frontends.web.lisen: unknown key; did you mean "listen"?',
  ]);
});

test("the HTTP server cannot have a port of a range", async () => {
  const text = `${listening('"127.0.0.1:9090-9099"')}[stats]\nport = 9095\n`;
  expect(await linesOf(text)).toEqual([
    't.toml:7:8: error: stats.port: is taken by frontend "web" (found 9095, expected a port of its own)',
  ]);
});

test("a server within a range of its own frontend is a circle", async () => {
  const [line] = await linesOf(listening('"127.0.0.1:8080-8090"'));
  expect(line).toContain(
    't.toml:5:8: error: backends.pool.servers.s1.addr: is where frontend "web" itself listens: connections would go in a circle',
  );
});

test("in dsr mode a server's port is one of its frontend's, which keep theirs", async () => {
  const dsr = `mode = "dsr"\n${LEAST_PACKETS}`;
  const at = (listen: string, port: number): Promise<string[]> =>
    linesOf(
      listening(listen, dsr)
        .replace("198.51.100.1:8081", `198.51.100.1:${port}`)
        .replace("[backends.pool.servers", '[backends.pool]\ncheck = "address"\n[backends.pool.servers'),
    );
  expect(await at('["192.0.2.1:80", "192.0.2.1:8000-8010"]', 8010)).toEqual([]);
  expect(await at('["192.0.2.1:80", "192.0.2.1:8000-8010"]', 81)).toEqual([
    't.toml:8:8: error: backends.pool.servers.s1.addr: has another port than frontend "web", and dsr mode leaves ports as they are (found "198.51.100.1:81", expected port 80 or 8000-8010)',
  ]);
});

test("a limit over several addresses is for engines that count in user space", async () => {
  const limited = (engine: string): string =>
    `mode = "passthrough"\nengine = "${engine}"\n${listening('["192.0.2.1:80", "192.0.2.2:80"]', LEAST_PACKETS).replace('backend = "pool"', 'backend = "pool"\nmax_connections = 10')}`;
  expect(await linesOf(limited("tc"))).toEqual([
    't.toml:6:19: error: frontends.web.max_connections: cannot be kept over several addresses or ports by kernel programs, which count each by itself (found 10, expected 0 with limits of the servers or limits.max_connections instead, or engine "af_packet" or "af_xdp")',
  ]);
  expect(await linesOf(limited("af_packet"))).toEqual([]);
});
