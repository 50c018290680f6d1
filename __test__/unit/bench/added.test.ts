import { describe, expect, test } from "vitest";
import { fill, parseAdded } from "../../bench/added.ts";

describe("CONVEY_BENCH_PEERS", () => {
  test("adds peers whose placeholders are replaced", () => {
    const [before, other] = parseAdded(
      "before=node /old/main.js run -c {config}, other=relay {listen} {server}",
    );
    expect(before && fill(before, { config: "/tmp/a.toml" })).toEqual([
      "sh",
      "-c",
      "exec node /old/main.js run -c /tmp/a.toml",
    ]);
    expect(other?.name).toBe("other");
    expect(other && fill(other, { listen: "a:1", server: "b:2" }).at(-1)).toBe("exec relay a:1 b:2");
  });

  test("is refused when an entry is no name=command, and says which", () => {
    expect(() => parseAdded("good=x,bad")).toThrow('"bad" is not name=command');
    expect(() => parseAdded("=x")).toThrow('"=x" is not name=command');
    expect(() => parseAdded("a=x,a=y")).toThrow('names "a" twice');
  });

  test("is refused for a placeholder that does not exist, and lists those that do", () => {
    const [peer] = parseAdded("a=x {port}");
    expect(() => peer && fill(peer, { config: "c" })).toThrow('{port} of "a" is not one of {config}');
  });
});
