/** explain, run --dry-run, dsr-server and cleanup as users type them, where no root is needed. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { Explanation } from "../../../ts/index.ts";
import { echo, freePort, listening } from "../../support/sockets.ts";
import { configuration, convey, folder, minimal, serving } from "./convey.ts";

describe("convey explain", () => {
  test("tells the way of a connection through a configuration", async () => {
    await using directory = await folder();
    const port = await freePort();
    const file = join(directory.path, "config.toml");
    await writeFile(file, minimal(81, "", port));
    const said = await convey(["explain", "-c", file, "tcp", "127.0.0.9:4000", `127.0.0.1:${port}`]);
    expect(said).toMatchObject({ code: 0, stderr: "" });
    expect(said.stdout).toBe(
      [
        `tcp 127.0.0.9:4000 -> 127.0.0.1:${port}`,
        '  1. frontend "web" listens there and accepts the connection',
        '  2. backend "pool" takes its servers by weighted round robin:',
        '  3. server "s1", 127.0.0.1:81, weight 1: 100.0 % of new connections',
        "  4. the connection to the server is one of the balancer's own",
        "verdict: connect",
        "",
      ].join("\n"),
    );
  });

  test("asks the running one by its socket, which needs no HTTP server and no valid file", async () => {
    await using directory = await folder();
    await using server = await listening(echo);
    const port = await freePort();
    const file = join(directory.path, "config.toml");
    await writeFile(file, minimal(server.port, "", port));
    const question = ["--running", "--json", "tcp", "127.0.0.9:4000", `127.0.0.1:${port}`];

    const before = await convey(["explain", "-c", file, ...question]);
    expect(before.code).toBe(1);
    // Where root has a /run/convey, an ordinary user is told that it is not for him to look into.
    expect(before.stderr).toMatch(
      /cannot ask the running convey: (no socket|\/run\/convey\/.* permission denied).*add \[stats\] with a port/,
    );

    await using running = serving(["-c", file]);
    await running.waitFor(/is ready/);
    await writeFile(file, "not = [toml");
    const { code, stdout } = await convey(["explain", "-c", file, ...question]);
    expect(code).toBe(0);
    const told = JSON.parse(stdout) as Explanation;
    expect(told).toMatchObject({ frontend: "web", verdict: "connect" });
    expect(told.server).toEqual({ backend: "pool", name: "s1", addr: `127.0.0.1:${server.port}` });
  });

  test("tells the route of a ClientHello by the file and by the running one, and refuses one without routes", async () => {
    await using directory = await folder();
    await using server = await listening(echo);
    const [port, plain] = [await freePort(), await freePort()];
    const file = join(directory.path, "config.toml");
    const backend = (name: string) => `[backends.${name}.servers.s1]\naddr = "127.0.0.1:${server.port}"\n`;
    await writeFile(
      file,
      `[frontends.web]\nlisten_addr = "127.0.0.1:${port}"\nbackend = "pool"\n` +
        `[frontends.web.sni]\n"*.bücher.example" = "books"\n[frontends.web.alpn]\nh2 = "grpc"\n` +
        `[frontends.plain]\nlisten_addr = "127.0.0.1:${plain}"\nbackend = "pool"\n` +
        backend("pool") +
        backend("books") +
        backend("grpc"),
    );
    await using running = serving(["-c", file]);
    await running.waitFor(/is ready/);
    const ask = async (...flags: string[]) => await convey(["explain", "-c", file, ...flags]);
    const flow = (to: number) => ["tcp", "127.0.0.9:4000", `127.0.0.1:${to}`];
    for (const where of [[], ["--running"]]) {
      const named = await ask(...where, "--sni", "Shop.Bücher.example", "--alpn=h2, http/1.1", ...flow(port));
      expect(named).toMatchObject({ code: 0, stderr: "" });
      expect(named.stdout).toContain(
        'route "*.xn--bcher-kva.example" in sni, which leads to backend "books"',
      );
      expect((await ask(...where, "--alpn", "h2", ...flow(port))).stdout).toContain('backend "grpc"');
      expect((await ask(...where, ...flow(port))).stdout).toContain(
        'without a name, with an encrypted one or without a route it goes to backend "pool"',
      );
      const refused = await ask(...where, "--sni", "a.example", ...flow(plain));
      expect(refused.code).not.toBe(0);
      expect(refused.stderr).toContain('frontend "plain" does not choose by the ClientHello');
    }
    const json = await ask("--json", "--sni", "a.example", ...flow(port));
    expect(JSON.parse(json.stdout)).toMatchObject({ sni: "a.example", server: { backend: "pool" } });
  });

  test("asks the HTTP server that --stats-port names, beyond loopback with its token", async () => {
    await using directory = await folder();
    await using server = await listening(echo);
    const [port, stats] = [await freePort(), await freePort()];
    const token = join(directory.path, "token");
    await writeFile(token, "a-secret", { mode: 0o600 });
    const file = join(directory.path, "config.toml");
    const table = `[stats]\nport = ${stats}\nbind = "0.0.0.0"\n`;
    await writeFile(file, minimal(server.port, `${table}token_file = "${token}"\n`, port));
    await using running = serving(["-c", file]);
    await running.waitFor(/is ready/);
    const question = ["--running", `--stats-port=${stats}`, "tcp", "127.0.0.9:4000", `127.0.0.1:${port}`];
    expect((await convey(["explain", "-c", file, ...question])).stdout).toContain("verdict: connect");

    const other = join(directory.path, "another-token.toml");
    await writeFile(join(directory.path, "other"), "another", { mode: 0o600 });
    await writeFile(other, minimal(server.port, `${table}token_file = "${directory.path}/other"\n`, port));
    const stranger = await convey(["explain", "-c", other, ...question]);
    expect(stranger.code).toBe(1);
    expect(stranger.stderr).toContain("a bearer token is needed");
  });
});

describe("usage of the commands around the packet modes", () => {
  test.each([
    ["a protocol that is none", ["explain", "icmp", "127.0.0.1:1", "127.0.0.1:2"], /neither tcp nor udp/],
    ["a source without a port", ["explain", "tcp", "127.0.0.1", "127.0.0.1:2"], /the source .* has no port/],
    ["two families", ["explain", "tcp", "127.0.0.1:1", "[::1]:2"], /give two of one family/],
    ["a missing destination", ["explain", "tcp", "127.0.0.1:1"], /missing required argument 'destination'/],
    [
      "a pattern as the server name",
      ["explain", "--sni=*.example.com", "tcp", "127.0.0.1:1", "127.0.0.1:2"],
      /the server name "\*\.example\.com" is a pattern/,
    ],
    [
      "an empty protocol of ALPN",
      ["explain", "--alpn=h2,", "tcp", "127.0.0.1:1", "127.0.0.1:2"],
      /"" is not a protocol of ALPN/,
    ],
    ["a hello with --live", ["explain", "--live", "--sni=a.test"], /--sni tells of one connection/],
    ["a VIP without a port", ["dsr-server", "192.0.2.1"], /"192\.0\.2\.1" has no port/],
    [
      "two actions",
      ["dsr-server", "192.0.2.1:80", "--check", "--undo"],
      /--check and --undo were both given/,
    ],
    ["a balancer that is no address", ["dsr-server", "192.0.2.1:80", "--balancer", "lb"], /Expected an IP/],
    ["a method that is none", ["dsr-server", "192.0.2.1:80", "--method=nat"], /choices are rewrite, l2/],
    ["an operand of cleanup", ["cleanup", "all"], /cleanup takes no "all"/],
  ])("%s is a usage error, exit code 2", async (_name, args, message) => {
    const { code, stdout, stderr } = await convey(args);
    expect(stderr).toMatch(message);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
  });

  test("proxy mode changes nothing on the host, and --dry-run says so", async () => {
    await using directory = await folder();
    const file = await configuration(directory.path, 81);
    expect(await convey(["--dry-run", "-c", file])).toMatchObject({
      code: 0,
      stdout: "# proxy mode changes nothing on the host\n",
      stderr: "",
    });
  });

  test("cleanup with nothing to clean up says so, for programs too", async () => {
    await using directory = await folder();
    const env = { ...process.env, CONVEY_STATE_DIR: join(directory.path, "none") };
    expect(await convey(["cleanup"], { env })).toMatchObject({ code: 0, stdout: "nothing to clean up\n" });
    const { stdout } = await convey(["cleanup", "--json"], { env });
    expect(JSON.parse(stdout)).toEqual({ reclaimed: [] });
  });

  test("dsr-server --print shows what to type on a server without Convey", async () => {
    const command = [
      "dsr-server",
      "192.0.2.10:80",
      "--server",
      "10.0.0.11",
      "--interface",
      "eth0",
      "--print",
    ];
    const { code, stdout } = await convey(command);
    expect(code).toBe(0);
    expect(stdout).toContain(
      "ip saddr 10.0.0.11 tcp sport 80 ip daddr != { 192.0.2.10 } ip saddr set 192.0.2.10",
    );
    expect(stdout).toMatch(
      /^tc filter add dev eth0 egress .* action nat egress 10\.0\.0\.11\/32 192\.0\.2\.10$/m,
    );
  });
});
