/** Installs the Debian packages that tests need and that are missing, where this user may. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { findCommand, missingPackages } from "./needs.mjs";

const SCRIPT = fileURLToPath(new URL("apt-install.sh", import.meta.url));

/**
 * Tells in one line what it installs, or why it does not. Whatever happens the tests go on: those whose needs are
 * still not met skip themselves. `asRoot` and `run` are for tests.
 */
export function installMissing(environment, say, { asRoot = rootPrefix(environment), run = runScript } = {}) {
  const packages = missingPackages(environment);
  if (packages.length === 0) return;
  const list = packages.join(" ");
  const skipped = (why) => say(`${why}; tests that need these Debian packages are skipped: ${list}`);
  if (environment.CONVEY_TEST_INSTALL === "0") return skipped("CONVEY_TEST_INSTALL=0");
  if (findCommand("apt-get", environment) === undefined) return skipped("there is no apt-get here");
  if (asRoot === null) return skipped("neither root nor sudo without a password");
  say(`installing Debian packages that tests need (CONVEY_TEST_INSTALL=0 leaves that out): ${list}`);
  run([...asRoot, "sh", SCRIPT, ...packages], environment);
  const left = missingPackages(environment);
  if (left.length > 0) say(`tests that need these Debian packages are skipped: ${left.join(" ")}`);
}

/** The words that make a command run as root: none as root, null when it cannot be had without a question. */
function rootPrefix(environment) {
  if (process.getuid() === 0) return [];
  const sudo = spawnSync("sudo", ["-n", "true"], { env: environment, stdio: "ignore", timeout: 10_000 });
  return sudo.status === 0 ? ["sudo", "-n"] : null;
}

function runScript([file, ...args], environment) {
  // Its messages are progress: standard output is left to the tests.
  spawnSync(file, args, { env: environment, stdio: ["ignore", 2, 2] });
}
