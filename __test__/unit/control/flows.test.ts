import { describe, expect, test } from "vitest";
import { type FlowFilter, filterOf, lowerFilter, parseFlowFilter } from "../../../ts/control/flows.ts";

const ANY = { protocol: "", client: "", vip: "", frontend: "", backend: "", server: "", state: "" };

describe("a filter of flows", () => {
  const read: [string, FlowFilter, object][] = [
    ["nothing is any flow", {}, {}],
    ["an address", { client: "10.0.0.2" }, { client: "10.0.0.2" }],
    ["a net", { client: "10.0.0.0/8" }, { client: "10.0.0.0/8" }],
    ["an address and a port", { client: "10.0.0.2:5000" }, { client: "10.0.0.2", clientPort: 5000 }],
    ["a port alone", { client: ":5000" }, { client: "", clientPort: 5000 }],
    ["an IPv6 address", { client: "2001:DB8::0:1" }, { client: "2001:db8::1" }],
    ["the IPv6 wildcard, which begins with colons", { client: "::" }, { client: "::" }],
    ["an IPv6 net", { client: "2001:db8::/32" }, { client: "2001:db8::/32" }],
    [
      "an IPv6 address and a port",
      { client: "[2001:db8::1]:5000" },
      { client: "2001:db8::1", clientPort: 5000 },
    ],
    ["an IPv4 address written as IPv6", { client: "::ffff:10.0.0.2" }, { client: "10.0.0.2" }],
    ["a VIP", { vip: "192.0.2.1:80" }, { vip: "192.0.2.1", vipPort: 80 }],
    ["a server by its name", { server: "one" }, { server: "one" }],
    ["a server of a backend", { server: "app/one" }, { backend: "app", server: "one" }],
    ["both, in agreement", { backend: "app", server: "app/one" }, { backend: "app", server: "one" }],
    ["a state", { state: "half_open", protocol: "udp" }, { state: "half_open", protocol: "udp" }],
  ];
  test.each(read)("reads %s", (_, filter, native) => {
    expect(lowerFilter(filter)).toEqual({ ok: true, value: { ...ANY, ...native } });
  });

  const refused: [Record<string, string>, RegExp][] = [
    [{ protocol: "sctp" }, /^protocol "sctp" is neither tcp nor udp/],
    [{ state: "open" }, /^state "open" is none of new, half_open, established, closing, closed/],
    [{ client: "10.0.0.0/33" }, /^client "10.0.0.0\/33" has a number of bits that is not from 0 to 32/],
    [{ client: "10.0.0.0/8/8" }, /^client "10.0.0.0\/8\/8" /],
    [{ client: "example.com:80" }, /^client "example.com:80" has a name/],
    [{ client: ":99999" }, /^client ":99999" has a port that is not a number/],
    [{ client: "2001:db8::1:zz" }, /^client "2001:db8::1:zz" /],
    [{ client: "" }, /^client "" is empty/],
    [{ vip: "10.0.0.0/8" }, /^vip "10.0.0.0\/8" is a net, and one address is wanted/],
    [{ frontend: "" }, /^frontend "" is empty/],
    [{ backend: "a", server: "b/one" }, /^server "b\/one" is not of the backend "a"/],
    [{ clients: "10.0.0.1" }, /^a filter has no "clients"; its parts are protocol, client, /],
    [{ all: "yes" }, /^all "yes" is neither true nor false/],
  ];
  test.each(refused)("%j is refused, and what is wrong is named", (parts, message) => {
    expect(parseFlowFilter(parts)).toEqual({ ok: false, message: expect.stringMatching(message) });
  });

  test("parts that are not given are left out, and `all` is a word", () => {
    expect(parseFlowFilter({ client: "10.0.0.1", vip: undefined, all: "true" })).toEqual({
      ok: true,
      value: { client: "10.0.0.1", all: true },
    });
  });

  test("the filter of a listed flow names it alone", () => {
    const flow = { protocol: "tcp", client: "[2001:db8::1]:5000", vip: "[2001:db8::2]:80" } as const;
    expect(lowerFilter(filterOf({ ...flow } as Parameters<typeof filterOf>[0]))).toEqual({
      ok: true,
      value: {
        ...ANY,
        ...{ protocol: "tcp", client: "2001:db8::1", clientPort: 5000, vip: "2001:db8::2", vipPort: 80 },
      },
    });
  });
});
