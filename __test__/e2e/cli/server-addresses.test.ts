/** The command line before servers that are no IP address: nginx on Unix sockets, and names that dnsmasq has. */
import { createSocket } from "node:dgram";
import { once } from "node:events";
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

test("convey doctor tells of names that do not resolve and sockets that nobody listens on, in plain words", async (context) => {
  needs(context, { tools: ["nginx", "dnsmasq"] });
  const [good, left] = [join(folder, "good.sock"), join(folder, "left.sock")];
  await using _good = nginx(`unix:${good}`, "good");
  await using _named = nginx("127.0.0.4:18982", "named");
  await using dns = await dnsmasq("127.0.0.4 app.test\n127.0.0.5 dead.test\n");
  writeFileSync(left, "");
  const file = join(folder, "doctor.toml");
  const servers = [
    `good = { addr = "unix:${good}" }`,
    `left = { addr = "unix:${left}" }`,
    `gone = { addr = "unix:${folder}/gone.sock" }`,
    'abstract = { addr = "unix:@convey-nobody-listens" }',
    'named = { addr = "app.test:18982" }',
    'dead = { addr = "dead.test:18982" }',
    'unknown = { addr = "none.test:18982" }',
    'off = { addr = "none.test:18982", weight = 0 }',
  ];
  const doctor = async (resolver: string) => {
    writeFileSync(file, toml(servers.join("\n"), resolver), { mode: 0o644 });
    const convey = [process.execPath, join(import.meta.dirname, "../../../dist/cli/main.js")];
    const { code, stdout } = await finish([...convey, "doctor", "--json", "-c", file]);
    type Told = { check: string; subject: string; severity: string; title: string; evidence: string };
    const { findings } = JSON.parse(stdout) as { findings: Told[] };
    const of = (check: string, server: string) =>
      findings.find((it) => it.check === check && it.subject === `app/${server}`);
    return { code, of };
  };
  await until(async () => (await ask({ host: "127.0.0.4", port: 18982 }, "/name")).body === "named", "nginx");
  const { code, of } = await doctor(`[resolver]\nservers = ["${dns.address}"]`);
  expect(code).toBe(1);
  expect(of("names", "named")).toMatchObject({
    severity: "ok",
    evidence: `127.0.0.4:18982, asked of ${dns.address}`,
  });
  expect(of("servers", "named")).toMatchObject({ severity: "ok", title: "app/named answers" });
  expect(of("names", "dead")?.severity).toBe("ok");
  expect(of("servers", "dead")).toMatchObject({
    severity: "error",
    evidence: "TCP connect to 127.0.0.5:18982: ECONNREFUSED",
  });
  expect(of("names", "unknown")).toMatchObject({
    severity: "error",
    title: "app/unknown: none.test does not resolve",
    evidence: expect.stringContaining(`asked of ${dns.address}`),
  });
  expect(of("names", "off"), "a server without weight is not asked for").toBeUndefined();
  expect(of("servers", "good")).toMatchObject({ severity: "ok", title: "app/good answers" });
  expect(of("servers", "left")).toMatchObject({ title: "app/left: nobody listens on the socket" });
  expect(of("servers", "gone")).toMatchObject({
    severity: "error",
    title: "app/gone: there is no such socket",
  });
  expect(of("servers", "abstract")).toMatchObject({ title: "app/abstract: nobody listens on the socket" });

  // A resolver that never answers.
  const mute = createSocket("udp4").bind(0, "127.0.0.1");
  await once(mute, "listening");
  const at = `127.0.0.1:${mute.address().port}`;
  const begun = performance.now();
  const silent = await doctor(`[resolver]\nservers = ["${at}"]\ntimeout_ms = 60000`);
  mute.close();
  expect(silent.of("names", "named")).toMatchObject({
    severity: "error",
    evidence: `no answer within 5000 ms, asked of ${at}`,
  });
  expect(performance.now() - begun).toBeLessThan(50_000);
}, 120_000);

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
