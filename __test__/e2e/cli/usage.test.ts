import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { finish } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import { convey, folder, minimal, ROOT } from "./convey.ts";

const version = (JSON.parse(readFileSync(`${ROOT}/package.json`, "utf8")) as { version: string }).version;

describe("usage", () => {
  test.each(["-v", "--version"])("%s prints the version alone", async (flag) => {
    expect(await convey([flag])).toMatchObject({ code: 0, stdout: `convey ${version}\n`, stderr: "" });
  });

  test.each(["-h", "--help"])("%s names every command, the flags of run and the exit codes", async (flag) => {
    const { code, stdout } = await convey([flag]);
    expect(code).toBe(0);
    const commands =
      "run demo validate config schema plan reload drain enable weight events flows explain doctor healthcheck dsr-server cleanup completion";
    for (const name of commands.split(" ")) expect(stdout).toMatch(new RegExp(`^  ${name} .*\\S`, "m"));
    const flags = "--config --mode --passthrough --dsr --engine --stats-port --log-level --drain-timeout-ms";
    for (const flag of flags.split(" "))
      expect(stdout).toMatch(new RegExp(`^  (-\\w, )?${flag}[ ,].*\\S`, "m"));
    expect(stdout).toMatch(/Exit codes:\n +0 .*\n +1 .*\n +2 /);
  });

  test("help, with or without a command's name, is as --help", async () => {
    expect(await convey(["help"])).toEqual(await convey(["--help"]));
    expect(await convey(["help", "validate"])).toEqual(await convey(["validate", "--help"]));
    expect(await convey(["hlep"])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('mean "help"?'),
    });
  });

  test("help and version load neither the schema's library nor the logger nor the addon", async () => {
    const hooks = ["--import", `data:text/javascript,${encodeURIComponent(REPORT_LOADED)}`];
    const { stderr: loaded } = await finish([
      process.execPath,
      ...hooks,
      `${ROOT}/dist/cli/main.js`,
      "--help",
    ]);
    expect(loaded).toMatch(/LOADED .*\/node_modules\/commander\//);
    expect(loaded).not.toMatch(/LOADED .*\/node_modules\/(zod|pino|smol-toml|hono|chokidar)\//);
    expect(loaded).not.toMatch(/LOADED .*\/native\//);
  });

  test.each([
    ["-p and -d", ["-p", "-d"], /--passthrough and --dsr were both given/],
    ["-p and --mode=dsr", ["-p", "--mode=dsr"], /--mode=dsr and --passthrough were both given/],
    ["--mode twice", ["--mode=proxy", "--mode", "dsr"], /--mode=proxy and --mode=dsr were both given/],
    ["an unknown mode", ["--mode=nat"], /Allowed choices are proxy, passthrough, dsr/],
    ["an unknown flag", ["--confg=x"], /unknown option '--confg=x'[\s\S]*--config/],
    ["an unknown command", ["nonsense"], /unknown command "nonsense"\n/],
    ["a mistyped command", ["valdate"], /unknown command "valdate"; did you mean "validate"\?/],
    ["a command by another's name", ["serve"], /unknown command "serve"; did you mean "run"\?/],
    ["that name mistyped", ["srve"], /unknown command "srve"; did you mean "run"\?/],
    ["a mistyped command behind options", ["-c", "x", "helthcheck"], /did you mean "healthcheck"\?/],
    ["an operand of a command that takes none", ["stats", "app/one"], /stats takes no "app\/one"/],
    ["a port that is none", ["--stats-port=70000"], /whole number from 0 to 65535/],
  ])("%s is a usage error: exit code 2, one message, nothing started", async (_name, args, message) => {
    const { code, stdout, stderr } = await convey(args);
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(/^convey: /);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
  });

  test.each([
    [["-c", "FILE", "validate"]],
    [["--config=FILE", "validate"]],
    [["--stats-port", "7000", "-c", "FILE", "--mode=proxy", "validate", "--json"]],
    [["-pc", "FILE", "validate", "--mode=passthrough"]],
    [["validate", "-c", "FILE"]],
  ])("options may stand before the command: %j", async (args) => {
    await using directory = await folder();
    const file = join(directory.path, "other.toml");
    await writeFile(
      file,
      minimal(81, "", 80).replaceAll("127.0.0.1:8", "192.0.2.1:8").replace("192.0.2.1:81", "198.51.100.1:81"),
    );
    const { code, stdout, stderr } = await convey(args.map((word) => word.replace("FILE", file)));
    // The packet modes find that this host lacks the address.
    expect(stderr.replace(/^.*: warning: on this host: .*\n/gm, "")).toBe("");
    expect(stdout).toMatch(/: valid: |"ok": true/);
    expect(code).toBe(0);
  });

  test("a value that reads like a command is a value", async () => {
    const { code, stderr } = await convey(["-c", "validate"]);
    expect(stderr).toContain("validate: error: no such file");
    expect(code).toBe(1);
  });

  test.each(["validate", "config", "run", "healthcheck"])(
    "CONVEY_CONFIG names the file of %s where no flag or operand does",
    async (command) => {
      const env = { ...process.env, CONVEY_CONFIG: "/does/not/exist-1" };
      const named = await convey([command], { env });
      expect(named.stderr).toContain("/does/not/exist-1");
      const flag = await convey([command, "--config=/does/not/exist-2"], { env });
      expect(flag.stderr).toContain("/does/not/exist-2");
      const empty = await convey([command], { env: { ...env, CONVEY_CONFIG: "" }, cwd: "/proc/self" });
      expect(empty.stderr).toContain("./config.toml");
      expect([named.code, flag.code, empty.code]).toEqual([1, 1, 1]);
    },
  );

  test("the same mode said twice is no contradiction", async () => {
    const { code, stderr } = await convey(["-p", "--mode=passthrough", "--config=/does/not/exist"]);
    expect(stderr).toContain("no such file");
    expect(code).toBe(1);
  });

  test("a reader that goes away early is no failure", () => {
    const script = `"$0" "$1" --help | head -n 1; echo "\${PIPESTATUS[0]}"`;
    const out = execFileSync("bash", ["-c", script, process.execPath, `${ROOT}/dist/cli/main.js`], {
      encoding: "utf8",
    });
    expect(out).toBe("Usage: convey [options] [command]\n0\n");
  });
});

describe("completion", () => {
  test.for([
    ["bash", "-n"],
    ["zsh", "-n"],
    ["fish", "--no-execute"],
  ] as const)(
    "the %s script is one that the shell can read, and names every command",
    async ([shell, check], context) => {
      const { code, stdout } = await convey(["completion", shell]);
      expect(code).toBe(0);
      for (const name of [
        "run",
        "demo",
        "validate",
        "config",
        "schema",
        "import",
        "healthcheck",
        "completion",
      ]) {
        expect(stdout).toContain(name);
      }
      needs(context, { tools: [shell] });
      // A file, because fish does not read from the socket that Node gives as standard input.
      await using directory = await folder();
      const file = join(directory.path, "completion");
      await writeFile(file, stdout);
      execFileSync(shell, [check, file]);
    },
  );

  test.each([
    ["convey va", "validate"],
    ["convey --mo", "--mode"],
    ["convey --mode pa", "passthrough"],
    ["convey completion fi", "fish"],
    ["convey schema --ma", "--markdown"],
    ["convey validate /etc/host.conf", "/etc/host.conf"],
    ["convey -c /etc/host.conf", "/etc/host.conf"],
    ["convey cleanup --js", "--json"],
  ])("bash completes %j to %j", async (line, expected) => {
    const { stdout } = await convey(["completion", "bash"]);
    const words = line.split(" ");
    const script = [
      stdout,
      `COMP_WORDS=(${words.join(" ")}); COMP_CWORD=${words.length - 1}`,
      '_convey; printf "%s\\n" "${' + 'COMPREPLY[@]}"',
    ].join("\n");
    expect(execFileSync("bash", { input: script, encoding: "utf8" }).trim()).toBe(expected);
  });

  test("an unknown shell is a usage error", async () => {
    expect(await convey(["completion", "tcsh"])).toMatchObject({ code: 2, stdout: "" });
  });
});

/** Makes Node tell every module it loads, on standard error. */
const HOOKS = `
  import { writeSync } from "node:fs";
  export function load(url, context, next) { writeSync(2, "LOADED " + url + "\\n"); return next(url, context); }
`;
const REPORT_LOADED = `
  import { register } from "node:module";
  register(${JSON.stringify(`data:text/javascript,${encodeURIComponent(HOOKS)}`)});
`;
