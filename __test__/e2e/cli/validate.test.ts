/** `validate` tells what `run` would refuse, in the same words: both load a configuration the same way. */
import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { CONVEY } from "../../support/peers.ts";
import { start } from "../../support/processes.ts";
import { lacking } from "../../support/requirements.ts";
import { SAMPLES, sampleFile } from "../../support/samples.ts";
import { convey, folder } from "./convey.ts";

const PROXY = `[frontends.web]
listen_addr = "127.0.0.1:31900"
backend = "pool"
[backends.pool.servers.s1]
addr = "127.0.0.1:31901"
`;
const PACKETS = PROXY.replace("127.0.0.1:31900", "192.0.2.1:80").replace(
  "127.0.0.1:31901",
  "198.51.100.1:80",
);
const STATS = `${PROXY}[stats]\nport = 31902\n`;
const server = (address: string) => PROXY.replace("127.0.0.1:31901", address);
const listener = (address: string) => PROXY.replace("127.0.0.1:31900", address);

interface Case {
  text: string;
  says: RegExp;
  args?: string[];
  env?: Record<string, string>;
  /** Files beside the configuration, with their mode. */
  files?: Record<string, { text: string; mode: number }>;
  /** The mode of the configuration. */
}

const token = (text: string, mode = 0o600) => ({ token: { text, mode } });

const REFUSED: Record<string, Case> = {
  "an empty file": { text: "", says: /is empty/ },
  "no TOML": { text: "[frontends", says: /not valid TOML/ },
  "no frontend": { text: "[backends.a]\n", says: /frontends: is missing/ },
  "an unknown key": { text: `${PROXY}wait = 1\n`, says: /s1\.wait: unknown key/ },
  "a value out of range": { text: `${PROXY}weight = 70000\n`, says: /is out of range/ },
  "a backend that is none": { text: PROXY.replace('"pool"', '"pol"'), says: /names no backend/ },
  "no name of a server": { text: server("a name:80"), says: /has no host name/ },
  "a name to listen at": { text: listener("localhost:80"), says: /names are not resolved/ },
  "a server at port 0": { text: server("127.0.0.1:0"), says: /has port 0/ },
  "the wildcard as a server": { text: server("0.0.0.0:80"), says: /is the wildcard address/ },
  "a multicast server": { text: server("224.0.0.1:80"), says: /is a multicast address/ },
  "a multicast listener": { text: listener("239.1.1.1:80"), says: /is a multicast address/ },
  "an IPv6 multicast listener": { text: listener("[ff02::1]:80"), says: /is a multicast address/ },
  "a broadcast listener": { text: listener("255.255.255.255:80"), says: /is the broadcast address/ },
  "a link-local listener": { text: listener("[fe80::1]:80"), says: /is a link-local address/ },
  "a link-local server": { text: server("[fe80::1]:80"), says: /is a link-local address/ },
  "its own server": { text: server("127.0.0.1:31900"), says: /frontend "web" itself listens/ },
  "its own server, IPv4 as IPv6": { text: server("[::ffff:127.0.0.1]:31900"), says: /itself listens/ },
  "its own server behind the wildcard": {
    text: listener(":31901"),
    says: /itself listens \(0\.0\.0\.0:31901 takes 127\.0\.0\.1/,
  },
  "its own server behind the IPv6 wildcard": {
    text: listener("[::]:31901").replace('"127.0.0.1:31901"', '"[::1]:31901"'),
    says: /itself listens \(\[::\]:31901 takes ::1/,
  },
  "frontends in a circle": {
    text: `${PROXY}[frontends.back]\nlisten_addr = "127.0.0.1:31901"\nbackend = "back"\n[backends.back.servers.s1]\naddr = "127.0.0.1:31900"\n`,
    says: /which leads back to frontend "web"/,
  },
  "two frontends on one address": {
    text: `${PROXY}[frontends.more]\nlisten_addr = "127.0.0.1:31900"\nbackend = "pool"\n`,
    says: /is the address of frontend "web" too/,
  },
  "a frontend under another's wildcard": {
    text: `${PROXY}[frontends.more]\nlisten_addr = ":31900"\nbackend = "pool"\n`,
    says: /overlaps with frontend "web"/,
  },
  "a key of TCP on a frontend of UDP": {
    text: PROXY.replace("[backends", 'protocol = "udp"\nmptcp = true\n[backends'),
    says: /is about TCP, and this frontend is of UDP/,
  },
  "the HTTP server on a frontend's port": { text: `${PROXY}[stats]\nport = 31900\n`, says: /is taken by/ },
  "the HTTP server on [::], which takes IPv4 too": {
    text: `${PROXY}[stats]\nport = 31900\nbind = "::"\n`,
    env: { CONVEY_STATS_TOKEN: "secret" },
    says: /is taken by frontend "web"/,
  },
  "the HTTP server as a server": {
    text: `${PROXY}[stats]\nport = 31901\n`,
    says: /is where the HTTP server of \[stats\] listens/,
  },
  "the HTTP server for everybody without a token": {
    text: `${STATS}bind = "0.0.0.0"\n`,
    says: /can be reached from other machines, which needs a token/,
  },
  "the same by a flag": {
    text: STATS,
    args: ["--stats-bind=0.0.0.0"],
    says: /--stats-bind: error: stats\.bind: can be reached from other machines/,
  },
  "the same by a variable": {
    text: STATS,
    env: { CONVEY_STATS_BIND: "::" },
    says: /CONVEY_STATS_BIND: error: stats\.bind: can be reached from other machines/,
  },
  "a multicast HTTP server": { text: `${STATS}bind = "224.0.0.1"\n`, says: /stats\.bind: is a multicast/ },
  "a token file that is missing": { text: `${STATS}token_file = "token"\n`, says: /cannot be read: ENOENT/ },
  "a token file that others can read": {
    text: `${STATS}token_file = "token"\n`,
    files: token("secret", 0o644),
    says: /can be read or written by others \(mode 0644\); run chmod 0600/,
  },
  "a token file that is empty": {
    text: `${STATS}token_file = "token"\n`,
    files: token("\n"),
    says: /holds no usable token/,
  },
  "a token of two words": {
    text: `${STATS}token_file = "token"\n`,
    files: token("two words"),
    says: /holds no usable token/,
  },
  "a token file that is a folder": { text: `${STATS}token_file = "."\n`, says: /token_file: cannot be read/ },
  "a token file that is a pipe": { text: `${STATS}token_file = "pipe"\n`, says: /is not a regular file/ },
  "a variable with no usable token": {
    text: STATS,
    env: { CONVEY_STATS_TOKEN: "two words" },
    says: /CONVEY_STATS_TOKEN holds no usable token/,
  },
  "a variable that is no mode": {
    text: PROXY,
    env: { CONVEY_MODE: "nat" },
    says: /CONVEY_MODE: error: mode/,
  },
  "loopback in a packet mode": { text: PROXY, args: ["-p"], says: /is a loopback address, for which/ },
  "a server here in a packet mode": {
    text: PACKETS.replace("198.51.100.1:80", "192.0.2.1:8080"),
    args: ["-p"],
    says: /is on the balancer's own machine \(frontend "web" listens on it\)/,
  },
  "two families in a packet mode": {
    text: PACKETS.replace("198.51.100.1:80", "[2001:db8::1]:80"),
    args: ["-p"],
    says: /is not of the address family/,
  },
  "two ports in dsr mode": {
    text: PACKETS.replace("198.51.100.1:80", "198.51.100.1:81"),
    args: ["-d"],
    says: /has another port than frontend/,
  },
  "port 0 in a packet mode": { text: PACKETS.replace("1:80", "1:0"), args: ["-d"], says: /has port 0/ },
  "a limit a client in a packet mode": {
    text: `${PACKETS}[limits]\nmax_connections_per_client = 5\n`,
    args: ["-p"],
    says: /max_connections_per_client: is not available in passthrough mode/,
  },
  "fewer ports than workers": {
    text: `${PACKETS}[passthrough]\nport_range = "40000-40003"\nworkers = 8\n`,
    args: ["-p"],
    says: /has fewer ports than there are workers, 8/,
  },
};

describe("what run refuses, validate refuses in the same words", () => {
  test.each(Object.entries(REFUSED))("%s", async (_name, { text, says, args = [], env, files = {} }) => {
    await using directory = await folder();
    writeFileSync(join(directory.path, "config.toml"), text, { mode: 0o600 });
    for (const [name, file] of Object.entries(files)) {
      writeFileSync(join(directory.path, name), file.text);
      chmodSync(join(directory.path, name), file.mode);
    }
    if (text.includes('"pipe"')) execFileSync("mkfifo", ["-m", "600", join(directory.path, "pipe")]);
    const at = { cwd: directory.path, env: { ...process.env, ...env } };
    const [validated, ran] = await Promise.all([
      convey(["validate", "-c", "config.toml", ...args], at),
      convey(["run", "-c", "config.toml", ...args], at),
    ]);
    expect(validated.stderr).toMatch(says);
    expect(validated).toMatchObject({ code: 1, stdout: "" });
    expect(ran).toMatchObject({ code: 1, stdout: "", stderr: validated.stderr });
  });

  test("a file that is missing, or a folder", async () => {
    await using directory = await folder();
    mkdirSync(join(directory.path, "folder"));
    for (const [name, says] of [
      ["missing", "no such file"],
      ["folder", "is a directory"],
    ] as const) {
      const file = join(directory.path, name);
      const [validated, ran] = await Promise.all([convey(["validate", file]), convey(["-c", file])]);
      expect(validated.stderr).toContain(says);
      expect(ran).toMatchObject({ code: 1, stderr: validated.stderr });
    }
  });
});

describe("what only the host knows", () => {
  const own = Object.values(networkInterfaces())
    .flat()
    .find((address) => address?.family === "IPv4" && !address.internal)?.address;

  test.skipIf(own === undefined)(
    "a wildcard with one of this host's addresses as its server is refused by both",
    async () => {
      await using directory = await folder();
      const file = join(directory.path, "config.toml");
      writeFileSync(file, listener(":31903").replace("127.0.0.1:31901", `${own}:31903`), { mode: 0o600 });
      const [validated, ran] = await Promise.all([convey(["validate", file]), convey(["-c", file])]);
      expect(validated.stderr).toContain(`0.0.0.0:31903 takes ${own}, since it is an address of this host`);
      expect(ran).toMatchObject({ code: 1, stderr: validated.stderr });
      expect(await convey(["validate", "--no-host", file])).toMatchObject({ code: 0, stderr: "" });
    },
  );

  test("for another machine, validate --no-host leaves the token out", async () => {
    await using directory = await folder();
    const file = join(directory.path, "config.toml");
    writeFileSync(file, `${STATS}token_file = "/nowhere/token"\n`, { mode: 0o600 });
    expect(await convey(["validate", file])).toMatchObject({ code: 1 });
    expect(await convey(["validate", "--no-host", file])).toMatchObject({ code: 0, stderr: "" });
  });

  test("with CONVEY_STATS_TOKEN nothing is said about an HTTP server for everybody", async () => {
    await using directory = await folder();
    const file = join(directory.path, "config.toml");
    writeFileSync(file, `${STATS}bind = "0.0.0.0"\n`, { mode: 0o600 });
    const env = { ...process.env, CONVEY_STATS_TOKEN: "secret" };
    expect(await convey(["validate", file], { env })).toMatchObject({ code: 0, stderr: "" });
  });
});

describe("samples", () => {
  test.each(SAMPLES)("%s passes validate", async (name) => {
    // Its frontend's address and its servers' link are not this host's.
    const elsewhere = name === "dsr-l2" ? ["--no-host"] : [];
    const judged = await convey(["validate", ...elsewhere, sampleFile(name)]);
    expect(judged).toMatchObject({ code: 0, stderr: "" });
  });

  const reason = lacking({ root: true, tools: ["unshare", "ip"] });
  test.skipIf(reason !== undefined).each(["minimal", "full", "proxy"] as const)(
    `%s starts as it is${reason ? ` (${reason})` : ""}`,
    async (name) => {
      // Alone in a namespace, where its ports are free.
      await using running = start([
        "unshare",
        "-n",
        "sh",
        "-c",
        'ip link set lo up && exec "$0" "$1" -c "$2"',
        process.execPath,
        CONVEY,
        sampleFile(name),
      ]);
      await running.waitFor(/is ready \(proxy mode\)/, 20_000);
      expect(await running.stop()).toEqual({ code: 0, signal: null });
    },
  );
});
