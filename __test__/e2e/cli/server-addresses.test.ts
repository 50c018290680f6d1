/** The command line before servers that are no IP address: nginx on Unix sockets, and names that dnsmasq has. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ask } from "../../support/control.ts";
import { runConvey } from "../../support/convey.ts";
import { dnsmasq } from "../../support/dns.ts";
import { nginxFiles } from "../../support/peers.ts";
import { finish, start, until } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "convey-addresses-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** nginx at `listen`, which answers /name with `name`. */
function nginx(listen: string, name: string) {
  const root = join(folder, name);
  mkdirSync(root, { recursive: true });
  writeFileSync(join(root, "name"), name);
  writeFileSync(join(root, "big"), Buffer.alloc(5_000_000, name));
  return start(nginxFiles(listen, root));
}

const toml = (servers: string, more = ""): string => `
${more}
[frontends.web]
listen_addr = "127.0.0.1:0"
backend = "app"
[stats]
port = 0
[backends.app]
health_check_interval = 1
health_check_fast_interval_ms = 50
[backends.app.servers]
${servers}
`;

test("nginx on a Unix socket serves, is checked and shown by its path, and a reload moves to another", async (context) => {
  needs(context, { tools: ["nginx"] });
  const [first, second] = [join(folder, "first.sock"), join(folder, "second.sock")];
  await using one = nginx(`unix:${first}`, "first");
  await using _two = nginx(`unix:${second}`, "second");
  const file = join(folder, "unix.toml");
  writeFileSync(file, toml(`a = { addr = "unix:${first}" }`), { mode: 0o644 });
  await using product = await runConvey(file);
  const web = product.front;
  expect((await ask(web, "/name")).body).toBe("first");
  expect((await ask(web, "/big")).body.length).toBe(5_000_000);
  const row = async () => (await product.stats()).backends.app?.server_details.a;
  await until(async () => (await row())?.last_check?.ok === true, "a good check");
  expect(await row()).toMatchObject({ addr: `unix:${first}`, up: true });
  product.replace(toml(`a = { addr = "unix:${second}" }`));
  await until(async () => (await ask(web, "/name")).body === "second", "the other server");
  product.replace(toml(`a = { addr = "unix:${first}" }`));
  await until(async () => (await ask(web, "/name")).body === "first", "the first server");
  await one.stop();
  await until(async () => (await row())?.up === false, "the server down");
  expect((await row())?.last_check?.cause).toMatch(/no such socket|connection refused/);
});

test("a name in the file is followed while it runs, by the API too, and a reload goes from it to a socket", async (context) => {
  needs(context, { tools: ["nginx", "dnsmasq"] });
  const path = join(folder, "socket.sock");
  await using _socket = nginx(`unix:${path}`, "socket");
  await using _a = nginx("127.0.0.2:18981", "two");
  await using _b = nginx("127.0.0.3:18981", "three");
  await using dns = await dnsmasq("127.0.0.2 app.test\n");
  const resolver = `[resolver]\nservers = ["${dns.address}"]\nmin_ttl_ms = 100\nmax_ttl_ms = 200`;
  const file = join(folder, "names.toml");
  writeFileSync(file, toml('a = { addr = "app.test:18981" }', resolver), { mode: 0o644 });
  await using product = await runConvey(file);
  const web = product.front;
  await until(async () => (await ask(web, "/name")).body === "two", "the first address");
  dns.write("127.0.0.3 app.test\n");
  await until(async () => (await ask(web, "/name")).body === "three", "the other address");
  const servers = async () => Object.keys((await product.stats()).backends.app?.server_details ?? {});
  expect(await servers()).toEqual(["a@127.0.0.3:18981"]);
  product.replace(toml(`a = { addr = "unix:${path}" }`, resolver));
  await until(async () => (await ask(web, "/name")).body === "socket", "the socket");
  expect(await servers()).toEqual(["a"]);
});

test("convey validate takes names and sockets without asking anybody, and refuses a socket where packets go", async () => {
  const file = join(folder, "validate.toml");
  const servers =
    'a = { addr = "no.such.name.test:80" }\nb = { addr = "unix:/run/app.sock" }\nc = { addr = "_http._tcp.app.test" }';
  writeFileSync(file, toml(servers), { mode: 0o644 });
  const convey = [process.execPath, join(import.meta.dirname, "../../../dist/cli/main.js")];
  const good = await finish([...convey, "validate", "-c", file]);
  expect(good.code, good.stderr + good.stdout).toBe(0);
  const bad = await finish([...convey, "validate", "-c", file, "--mode=passthrough"]);
  expect(bad.code).not.toBe(0);
  expect(bad.stderr + bad.stdout).toContain("is a Unix socket, which no packet can be sent to");
});
