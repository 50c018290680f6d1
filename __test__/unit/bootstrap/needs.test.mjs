import { spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { installMissing } from "../../../ts/bootstrap/install.mjs";
import {
  BASE,
  missingPackages,
  NEEDS,
  namesIn,
  onlyDeclared,
  remedy,
  unknownNames,
  unmet,
} from "../../../ts/bootstrap/needs.mjs";

const ROOT = new URL("../../..", import.meta.url).pathname;
let folder;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "convey needs "));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe("a machine", () => {
  const TABLE = {
    root: { met: () => false, remedy: "run as root" },
    tool: { package: "tool-light" },
    two: { commands: ["one", "two"], package: "pair" },
    header: { file: "/no/such/header.h", package: "header-dev" },
    bash: { package: "bash" },
  };

  test("lacks a program that is not on the PATH, cannot be run, or of which a half is there", () => {
    tool("one");
    writeFileSync(join(folder, "tool"), "");
    const environment = { PATH: folder };
    expect(unmet(["root", "tool", "two", "header"], environment, TABLE)).toEqual([
      "root",
      "tool",
      "two",
      "header",
    ]);
    chmodSync(join(folder, "tool"), 0o755);
    tool("two");
    expect(unmet(["root", "tool", "two", "header"], environment, TABLE)).toEqual(["root", "header"]);
  });

  test("is asked for the packages of all that is missing, and people are told what to do", () => {
    expect(missingPackages({ PATH: folder }, TABLE)).not.toContain("root");
    expect(missingPackages({ PATH: folder }, TABLE)).toEqual(
      expect.arrayContaining(["header-dev", "pair", "tool-light"]),
    );
    expect(remedy(["root", "tool", "two"], TABLE)).toBe("run as root; apt-get install tool-light pair");
  });

  test("shows a test nothing but the base and what it declared", () => {
    for (const name of ["tool", "one", "two"]) tool(name);
    const environment = { PATH: `${folder}:${process.env.PATH}` };
    const only = onlyDeclared(["root", "two"], environment, TABLE);
    const seen = readdirSync(only.path);
    expect(seen).toEqual(expect.arrayContaining(["sh", "cat", "node", "one", "two"]));
    expect(seen).not.toContain("tool");
    expect(seen.filter((name) => !BASE.includes(name) && name !== "one" && name !== "two")).toEqual([]);
    only.remove();
    expect(existsSync(only.path)).toBe(false);
  });
});

describe("this test run", () => {
  test("finds no program that was not declared", () => {
    for (const name of ["nft", "curl", "nginx", "ip"]) {
      expect(spawnSync(name, ["--version"]).error?.code).toBe("ENOENT");
    }
  });
});

describe("declarations", () => {
  test("of Rust tests have a reason, and what they need stands in the table", () => {
    const wrong = [];
    for (const file of filesBelow("crates", /\.rs$/)) {
      for (const [text, , reason] of readFileSync(file, "utf8").matchAll(
        /#\[ignore(\s*=\s*"([^"]*)")?\s*\]/g,
      )) {
        const names = namesIn(reason ?? "");
        const known = names ? unknownNames(names).length === 0 : /^run (in .+ )?by \w+$/.test(reason ?? "");
        if (!known) wrong.push(`${file}: ${text}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  test("are few enough: no need of the table stands there twice or in the base", () => {
    expect(Object.keys(NEEDS).filter((name) => BASE.includes(name))).toEqual([]);
    expect(new Set(BASE).size).toBe(BASE.length);
  });
});

describe("installing", () => {
  const said = [];
  const say = (text) => said.push(text);
  beforeEach(() => {
    said.length = 0;
  });
  const nothing = () => ({ PATH: folder });

  test("can be switched off, and says what is left out then", () => {
    installMissing({ ...nothing(), CONVEY_TEST_INSTALL: "0" }, say, { asRoot: [], run: unexpected });
    expect(said).toEqual([expect.stringMatching(/^CONVEY_TEST_INSTALL=0; tests that need these [^\n]*curl/)]);
  });

  test("needs apt-get, and root or a sudo that asks nothing", () => {
    installMissing(nothing(), say, { asRoot: [], run: unexpected });
    expect(said).toEqual([expect.stringMatching(/^there is no apt-get here; [^\n]*curl/)]);
    tool("apt-get");
    said.length = 0;
    installMissing(nothing(), say, { asRoot: null, run: unexpected });
    expect(said).toEqual([expect.stringMatching(/^neither root nor sudo without a password; [^\n]*curl/)]);
  });

  test("says in one line what it installs, and afterwards what could not be had", () => {
    tool("apt-get");
    const commands = [];
    installMissing(nothing(), say, { asRoot: ["sudo", "-n"], run: (command) => commands.push(command) });
    expect(commands).toEqual([
      ["sudo", "-n", "sh", expect.stringMatching(/apt-install\.sh$/), ...missingPackages(nothing())],
    ]);
    expect(said).toEqual([
      expect.stringMatching(/^installing Debian packages [^\n]*curl/),
      expect.stringMatching(/^tests that need these Debian packages are skipped: [^\n]*curl/),
    ]);
  });

  test("goes on without a package that does not exist, and installs the others in one go", () => {
    apt(`case "$*" in
      *simulate*nosuch*) echo "E: Unable to locate package nosuch" >&2; exit 100;;
      *simulate*|*update*) exit 0;;
    esac
    echo "$@" >>"$0.log"`);
    const { status, stdout } = install("one", "nosuch", "two");
    expect(stdout).toBe("convey: cannot install nosuch: E: Unable to locate package nosuch\n");
    expect(readFileSync(join(folder, "apt-get.log"), "utf8").trim()).toMatch(/ install one two$/);
    expect(status).toBe(0);
  });

  test("tells why nothing could be installed, and goes on", () => {
    apt(`echo "W: Failed to fetch http://deb.example/: Temporary failure resolving 'deb.example'" >&2
    case "$*" in *update*|*simulate*) exit 0;; esac
    echo "E: Unable to fetch some archives" >&2; exit 100`);
    const { status, stdout } = install("one");
    expect(stdout.trim().split("\n")).toEqual([
      expect.stringMatching(/^convey: the package lists were not refreshed: W: Failed to fetch/),
      "convey: the installation failed: E: Unable to fetch some archives",
    ]);
    expect(status).toBe(0);
  });

  test("waits for another apt-get to end", () => {
    apt(`if [ ! -e "$0.second" ]; then
      : >"$0.second"; echo "E: Could not get lock /var/lib/apt/lists/lock" >&2; exit 100
    fi`);
    const { stdout } = install("one");
    expect(stdout).toBe("convey: waiting for another apt-get\n");
  });

  const unexpected = () => expect.unreachable("nothing may be installed");
  const apt = (script) => tool("apt-get", script);
  function install(...packages) {
    const script = join(ROOT, "ts/bootstrap/apt-install.sh");
    const PATH = `${folder}:${process.env.PATH}`;
    const policy = join(folder, "policy-rc.d");
    return spawnSync("sh", [script, ...packages], { env: { PATH, POLICY_RC_D: policy }, encoding: "utf8" });
  }
});

function filesBelow(start, pattern) {
  const found = readdirSync(join(ROOT, start), { recursive: true }).filter((name) => pattern.test(name));
  return found.map((name) => join(ROOT, start, name));
}

function tool(name, script = "") {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`);
  chmodSync(join(folder, name), 0o755);
}
