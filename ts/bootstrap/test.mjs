/**
 * `npm test`: installs what tests need where it may, runs every test the machine allows, and prints one closing line
 * over all of them. `npm test rust` and `npm test typescript` run one half; what follows the latter goes to vitest.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { addUp, byNeeds, closingLine, readCargoTest, readIgnored, readVitest } from "./count.mjs";
import { installMissing } from "./install.mjs";
import { onlyDeclared, remedy, searchPath, unmet } from "./needs.mjs";
import { ROOT } from "./steps.mjs";
import { buildEnvironment } from "./toolchain.mjs";

const environment = buildEnvironment();
environment.PATH = searchPath(environment).join(":");
const [only, ...more] = process.argv.slice(2);
if (only !== undefined && only !== "rust" && only !== "typescript") {
  console.error(`convey: unknown suite "${only}"; use rust or typescript, or nothing for both`);
  process.exit(2);
}

installMissing(environment, (text) => console.error(`convey: ${text}`));
const tallies = [];
if (only !== "typescript") tallies.push(await timed("Rust tests", rust));
if (only !== "rust") tallies.push(await timed("TypeScript tests", typescript));
const total = addUp(tallies);
console.log("");
for (const { name, reason } of total.skipped) console.log(`skipped: ${name}: ${reason}`);
for (const { name, reason } of total.failed) console.log(`failed: ${name}: ${reason.split("\n")[0]}`);
if (total.passed + total.failed.length + total.skipped.length === 0)
  total.failed.push({ name: "all suites", reason: "nothing was run" });
console.log(closingLine(total));
process.exitCode = total.failed.length === 0 ? 0 : 1;

/** First what needs nothing, with nothing on the PATH; then, for each set of needs, its tests with that alone. */
async function rust() {
  const tests = ["test", "--workspace", "--locked", "--no-fail-fast"];
  const built = await run("cargo", [...tests, "--no-run"]);
  if (!built.ended.ok) return readCargoTest(built.output, built.ended);
  const first = await run("cargo", tests, {}, []);
  const { skipped, ...counted } = readCargoTest(first.output, first.ended);
  const { groups, others, wrong } = byNeeds(skipped);
  const parts = [counted, { passed: 0, failed: wrong, skipped: others }];
  for (const { needs, tests: asked } of groups) {
    const missing = unmet(needs, environment);
    if (missing.length > 0) {
      const lacks = asked.map(({ name, reason }) => ({ name, reason: `${reason} (${remedy(missing)})` }));
      parts.push({ passed: 0, failed: [], skipped: lacks });
      continue;
    }
    console.log(`convey: Rust tests that need ${needs.join(", ")}`);
    const names = [...new Set(asked.map(({ name }) => name))];
    const { output, ended } = await run(
      "cargo",
      [...tests, "--tests", "--", "--ignored", "--exact", ...names],
      {},
      needs,
    );
    parts.push(readIgnored(output, ended, asked));
  }
  return addUp(parts.map((part) => ({ skipped: [], ...part })));
}

async function typescript() {
  // Not under target/, which may belong to somebody else.
  const folder = mkdtempSync(join(tmpdir(), "convey-test-"));
  const report = join(folder, "vitest.json");
  const reporters = ["default", "./__test__/support/matrix.ts", "./ts/bootstrap/vitest-report.mjs"];
  const { ended } = await run(
    process.execPath,
    ["node_modules/vitest/vitest.mjs", "run", ...reporters.map((each) => `--reporter=${each}`), ...more],
    {
      CONVEY_TEST_REPORT: report,
      // A deployment's setting; under it libraries drop the checks that tests rely on.
      NODE_ENV: "test",
    },
  );
  const text = existsSync(report) ? readFileSync(report, "utf8") : undefined;
  rmSync(folder, { recursive: true });
  return readVitest(text, ended);
}

async function timed(what, work) {
  console.log(`convey: ${what}`);
  const begun = Date.now();
  const tally = await work();
  console.log(`convey: ${what} took ${Math.round((Date.now() - begun) / 1000)} s`);
  return tally;
}

/**
 * Runs a program, shows its output and keeps the standard one, and tells how it ended. Never rejects. With `needs` it
 * finds nothing but what they name.
 */
function run(file, args, extra = {}, needs = undefined) {
  const declared = needs && onlyDeclared(needs, environment);
  const path = declared === undefined ? {} : { PATH: declared.path };
  return new Promise((resolve) => {
    const child = spawn(file, args, {
      cwd: ROOT,
      env: { ...environment, CARGO_TERM_COLOR: "never", ...path, ...extra },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    for (const [stream, to] of [
      [child.stdout, process.stdout],
      [child.stderr, process.stderr],
    ]) {
      stream.setEncoding("utf8").on("data", (text) => {
        // Test lines stand on standard output; mixing in the other stream could tear them apart.
        if (stream === child.stdout) output += text;
        to.write(text);
      });
    }
    const end = (ended) => {
      declared?.remove();
      resolve({ output, ended });
    };
    child.once("error", (error) => end({ ok: false, text: `${file}: ${error.message}` }));
    child.once("close", (code, signal) =>
      end({ ok: code === 0, text: signal ? `ended by ${signal}` : `exit code ${code}` }),
    );
  });
}
