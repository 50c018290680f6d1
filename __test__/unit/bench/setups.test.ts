import { existsSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { type Options, parseOptions } from "../../bench/options.ts";
import { peers } from "../../bench/peers.ts";
import {
  bySetup,
  furtherAddresses,
  HELLO,
  openFiles,
  SERVER_NAME,
  tooManyPairs,
} from "../../bench/setups.ts";

const PLAIN = { listen: "10.77.1.1:8080", server: "10.77.2.2:8080", threads: 1 };

function options(...args: string[]): Options {
  return parseOptions(args) as Options;
}

/** What the named peer is told in its configuration file, or undefined when it cannot balance like that. */
function told(name: string, relay: Parameters<NonNullable<ReturnType<typeof peers>[number]["command"]>>[0]) {
  const command = peers(undefined)
    .find((peer) => peer.name === name)
    ?.command?.(relay);
  return command === undefined ? undefined : readFileSync(command.at(-1) as string, "utf8");
}

describe("the labs of a visit", () => {
  test("are one for all works that need nothing special, and one each for the others", () => {
    const groups = bySetup(["memory", "mixed", "connect", "connect-sni", "sparse"]);
    expect([...groups]).toEqual([
      ["plain", ["memory", "connect", "sparse"]],
      ["mixed", ["mixed"]],
      ["connect-sni", ["connect-sni"]],
    ]);
  });

  test("have another address at either end for each further 25,000 idle pairs", () => {
    expect(furtherAddresses("10.77.2", 9000)).toEqual([]);
    expect(furtherAddresses("10.77.2", 25_000)).toEqual([]);
    expect(furtherAddresses("10.77.2", 100_000)).toEqual(["10.77.2.10", "10.77.2.11", "10.77.2.12"]);
  });

  test("are refused when a process may not open two files a pair", () => {
    const limits =
      "Max processes   1 2 processes\nMax open files            1024                 20000    files\n";
    expect(openFiles(limits)).toBe(20_000);
    expect(openFiles(limits.replace("20000", "unlimited"))).toBe(Number.POSITIVE_INFINITY);
    expect(tooManyPairs(9000, 20_000)).toBeUndefined();
    expect(tooManyPairs(100_000, 20_000)).toContain("100000 pairs need 200500 open files");
  });

  test("have a recorded ClientHello with the name that is routed", () => {
    expect(existsSync(HELLO)).toBe(true);
    expect(readFileSync(HELLO, "latin1")).toContain(SERVER_NAME);
  });
});

describe("a peer of the proxy bench", () => {
  test("sends a PROXY header, each the newest that it has", () => {
    const relay = { ...PLAIN, sendProxy: true };
    expect(told("convey", relay)).toContain('send_proxy = "v2"');
    expect(told("haproxy", relay)).toContain(`server s0 ${PLAIN.server} send-proxy-v2`);
    expect(told("nginx", relay)).toContain("proxy_protocol on;");
  });

  test("routes by name, and everything else to nobody", () => {
    const relay = { ...PLAIN, sni: SERVER_NAME };
    expect(told("convey", relay)).toMatch(/backend = "nobody"\nsni = \{ "app\.example\.com" = "pool" \}/);
    expect(told("haproxy", relay)).toMatch(/use_backend pool if \{ req\.ssl_sni -i app\.example\.com \}/);
    expect(told("nginx", relay)).toMatch(/app\.example\.com pool; default nobody;/);
  });

  test("can hold as many idle pairs as are asked for", () => {
    const relay = { ...PLAIN, pairs: 100_000, more: ["10.77.2.10:8080"] };
    expect(told("haproxy", relay)).toContain("maxconn 100100");
    expect(told("nginx", relay)).toContain("worker_connections 200100;");
    expect(told("convey", relay)).toContain('addr = "10.77.2.10:8080"');
  });

  test("that was added needs a configuration file for more than an address and a server", () => {
    const command = (text: string) => peers(`x=${text}`).find(({ name }) => name === "x")?.command;
    expect(command("relay {listen} {server}")?.(PLAIN)).toBeDefined();
    expect(command("relay {listen} {server}")?.({ ...PLAIN, sni: SERVER_NAME })).toBeUndefined();
    expect(command("convey run -c {config}")?.({ ...PLAIN, sni: SERVER_NAME })).toBeDefined();
  });
});

describe("the options of the proxy bench", () => {
  test("leave the longer works to those who ask for them", () => {
    expect(options().works).toEqual(["memory", "bulk", "keepalive", "half", "connect"]);
    expect(options("--only", "mixed,idle").works).toEqual(["mixed", "idle"]);
  });

  test("refuse a part of a pair", () => {
    expect(() => options("--pairs", "0.5")).toThrow('--pairs cannot be "0.5"; use a whole number');
  });
});
