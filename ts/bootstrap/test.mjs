/** `npm test`: every suite the machine allows, then one closing line over all of them. */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { addUp, closingLine, readCargoTest, readIgnored, readVitest } from "./count.mjs";
import { isMet } from "./needs.mjs";
import { ROOT } from "./steps.mjs";
import { buildEnvironment } from "./toolchain.mjs";

const environment = buildEnvironment();
const only = process.argv[2];
if (only !== undefined && only !== "rust" && only !== "typescript") {
  console.error(`convey: unknown suite "${only}"; use rust or typescript, or nothing for both`);
  process.exit(2);
}

const tallies = [];
if (only !== "typescript") tallies.push(await rust());
if (only !== "rust") tallies.push(await typescript());
const total = addUp(tallies);
console.log("");
for (const { name, reason } of total.skipped) console.log(`skipped: ${name}: ${reason}`);
for (const { name, reason } of total.failed) console.log(`failed: ${name}: ${reason.split("\n")[0]}`);
if (total.passed + total.failed.length === 0)
  total.failed.push({ name: "all suites", reason: "nothing was run" });
console.log(closingLine(total));
process.exitCode = total.failed.length === 0 ? 0 : 1;

async function rust() {
  console.log("convey: Rust tests");
  const all = ["test", "--workspace", "--locked", "--no-fail-fast"];
  const first = await run("cargo", all);
  const tally = readCargoTest(first.output, first.ended);
  const possible = tally.skipped.filter(({ reason }) => isMet(reason, environment));
  if (possible.length === 0) return tally;
  console.log("convey: Rust tests that need what this machine has");
  const names = [...new Set(possible.map(({ name }) => name))];
  const second = await run("cargo", [...all, "--", "--ignored", "--exact", ...names]);
  const left = tally.skipped.filter((test) => !possible.includes(test));
  return addUp([{ ...tally, skipped: left }, readIgnored(second.output, second.ended, possible)]);
}

async function typescript() {
  console.log("convey: TypeScript tests");
  const report = join(ROOT, "target", "bootstrap", "vitest.json");
  mkdirSync(join(ROOT, "target", "bootstrap"), { recursive: true });
  rmSync(report, { force: true });
  const reporters = ["--reporter=default", "--reporter=./ts/bootstrap/vitest-report.mjs"];
  const { ended } = await run(process.execPath, ["node_modules/vitest/vitest.mjs", "run", ...reporters], {
    CONVEY_TEST_REPORT: report,
    // A deployment's setting; under it libraries drop the checks that tests rely on.
    NODE_ENV: "test",
  });
  return readVitest(existsSync(report) ? readFileSync(report, "utf8") : undefined, ended);
}

/** Runs a program, shows its output and keeps the standard one, and tells how it ended. Never rejects. */
function run(file, args, extra = {}) {
  return new Promise((resolve) => {
    const child = spawn(file, args, {
      cwd: ROOT,
      env: { ...environment, ...extra },
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
    child.once("error", (error) =>
      resolve({ output, ended: { ok: false, text: `${file}: ${error.message}` } }),
    );
    child.once("close", (code, signal) =>
      resolve({
        output,
        ended: { ok: code === 0, text: signal ? `ended by ${signal}` : `exit code ${code}` },
      }),
    );
  });
}
