import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { withLock } from "../../../ts/bootstrap/lock.mjs";
import { nodeProblem } from "../../../ts/bootstrap/node-version.mjs";
import { filesBelow, hashOf, isFresh, writeStamp } from "../../../ts/bootstrap/stamp.mjs";
import { buildEnvironment, requireRust } from "../../../ts/bootstrap/toolchain.mjs";

let root;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "convey bootstrap "));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

describe("what is missing is told in one line", () => {
  const oneLine = expect.stringMatching(/^[^\n]+$/);

  test.each(["8.17.0", "18.20.4", "20.18.3"])("Node %s is too old", (version) => {
    expect(nodeProblem(version, "linux")).toEqual(oneLine);
    expect(nodeProblem(version, "linux")).toContain(`Node 20.19 or newer is needed (this is ${version})`);
  });

  test.each(["20.19.0", "20.20.2", "22.0.0", "24.1.0"])("Node %s will do", (version) => {
    expect(nodeProblem(version, "linux")).toBeUndefined();
  });

  test.each(["darwin", "win32"])("%s is not Linux", (platform) => {
    expect(nodeProblem("22.0.0", platform)).toContain("runs on Linux only");
  });

  test("no cargo", () => {
    expect(() => requireRust({ PATH: root }, root)).toThrow(/^cargo was not found.*rustup\.rs[^\n]*$/);
  });

  test("cargo that is too old", () => {
    tool("cargo", "echo cargo 1.80.1");
    expect(() => requireRust({ PATH: root }, root)).toThrow(
      /^Rust 1\.95 or newer is needed \(this is 1\.80\.1\): run `rustup update stable`\.$/,
    );
  });

  test("cargo that has no toolchain behind it", () => {
    tool("cargo", "echo error: no default toolchain >&2; exit 1");
    expect(() => requireRust({ PATH: root }, root)).toThrow(
      /^cargo does not run: error: no default toolchain;[^\n]*$/,
    );
  });

  test("no C linker", () => {
    tool("cargo", "echo cargo 1.95.0");
    expect(() => requireRust({ PATH: root }, root)).toThrow(/^cc was not found[^\n]*gcc[^\n]*$/);
  });

  test("everything there is no complaint", () => {
    tool("cargo", "echo cargo 1.95.0");
    tool("cc", "echo cc");
    expect(() => requireRust({ PATH: root }, root)).not.toThrow();
  });

  test("a cargo that rustup installed but the shell does not know is found", () => {
    mkdirSync(join(root, "bin"));
    writeFileSync(join(root, "bin", "cargo"), "");
    expect(buildEnvironment({ PATH: "/usr/bin", CARGO_HOME: root }).PATH).toBe(
      `/usr/bin:${join(root, "bin")}`,
    );
    expect(buildEnvironment({ PATH: "/usr/bin", CARGO_HOME: join(root, "none") }).PATH).toBe("/usr/bin");
  });
});

describe("stamps", () => {
  const stamp = () => join(root, "target", "stamp.json");

  test("go by content, not by time", () => {
    writeFileSync(join(root, "a"), "one");
    const before = hashOf(root, ["a"]);
    utimesSync(join(root, "a"), 1, 1);
    expect(hashOf(root, ["a"])).toBe(before);
    writeFileSync(join(root, "a"), "two");
    expect(hashOf(root, ["a"])).not.toBe(before);
  });

  test("see a renamed file, a file that is gone, and another setting", () => {
    writeFileSync(join(root, "a"), "one");
    writeFileSync(join(root, "b"), "one");
    const hashes = [
      hashOf(root, ["a"]),
      hashOf(root, ["b"]),
      hashOf(root, ["gone"]),
      hashOf(root, ["a"], ["x"]),
    ];
    expect(new Set(hashes).size).toBe(4);
  });

  test("are stale when an output is gone or somebody else made it", () => {
    writeFileSync(join(root, "out"), "made");
    writeStamp(root, stamp(), "inputs", ["out"]);
    expect(isFresh(root, stamp(), "inputs", ["out"])).toBe(true);
    expect(isFresh(root, stamp(), "other inputs", ["out"])).toBe(false);
    writeFileSync(join(root, "out"), "made by somebody else");
    expect(isFresh(root, stamp(), "inputs", ["out"])).toBe(false);
    rmSync(join(root, "out"));
    expect(isFresh(root, stamp(), "inputs", ["out"])).toBe(false);
  });

  test("that are torn count as none, and none is written for an output that was not made", () => {
    mkdirSync(join(root, "target"));
    writeFileSync(stamp(), '{"inputs":');
    expect(isFresh(root, stamp(), "inputs", [])).toBe(false);
    expect(() => writeStamp(root, stamp(), "inputs", ["missing"])).toThrow(/did not make all of: missing/);
  });

  test("leave out node_modules and target", () => {
    for (const path of ["src/a", "src/node_modules/b", "src/target/c"]) {
      mkdirSync(join(root, path, ".."), { recursive: true });
      writeFileSync(join(root, path), "");
    }
    expect(filesBelow(root, "src")).toEqual(["src/a"]);
  });
});

describe("the lock", () => {
  test("lets one work at a time and tells who waits", async () => {
    const order = [];
    let waited = 0;
    const work = (name) => () => {
      order.push(`${name} begins`);
      return new Promise((resolve) => setTimeout(resolve, 100)).then(() => order.push(`${name} ends`));
    };
    await Promise.all([
      withLock(root, () => waited++, work("one")),
      withLock(root, () => waited++, work("two")),
    ]);
    expect(order).toEqual(["one begins", "one ends", "two begins", "two ends"]);
    expect(waited).toBe(1);
  });

  test("is free again after its holder was killed", async () => {
    const module = new URL("../../../ts/bootstrap/lock.mjs", import.meta.url).href;
    const script = `import { withLock } from ${JSON.stringify(module)};
      withLock(${JSON.stringify(root)}, () => {}, () => { console.log("held"); return new Promise(() => setInterval(() => {}, 1000)); });`;
    const holder = spawn(process.execPath, ["--input-type=module", "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(holder.stdout, "data");
    let waited = 0;
    const mine = withLock(
      root,
      () => {
        waited++;
        holder.kill("SIGKILL");
      },
      () => "mine",
    );
    expect(await mine).toBe("mine");
    expect(waited).toBe(1);
  });

  test("is released when the work fails", async () => {
    await expect(
      withLock(
        root,
        () => {},
        () => Promise.reject(new Error("failed")),
      ),
    ).rejects.toThrow("failed");
    expect(
      await withLock(
        root,
        () => {},
        () => "again",
      ),
    ).toBe("again");
  });
});

test("the entry tells a missing toolchain in one line and exits with 1", () => {
  const main = new URL("../../../ts/bootstrap/main.mjs", import.meta.url).pathname;
  const pretend = `Object.defineProperty(process.versions, "node", { value: "18.0.0" }); process.argv[1] = ${JSON.stringify(main)}; await import(${JSON.stringify(main)});`;
  const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", pretend], {
    encoding: "utf8",
  });
  expect(stderr).toBe(
    "convey: Node 20.19 or newer is needed (this is 18.0.0); install it from https://nodejs.org/.\n",
  );
  expect(status).toBe(1);
});

function tool(name, script) {
  writeFileSync(join(root, name), `#!/bin/sh\n${script}\n`);
  chmodSync(join(root, name), 0o755);
}
