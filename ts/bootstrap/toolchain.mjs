/** Finds what the native build needs and says in one line what is missing. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";

/** An error whose message is meant for people: printed without a stack. */
export class Refusal extends Error {
  forPeople = true;
}

/** The oldest Rust the crates compile with (rust-version in Cargo.toml). */
export const OLDEST_RUST = [1, 95];

/** The environment for builds: rustup's directory is added when the shell has not been told of it yet. */
export function buildEnvironment(environment = process.env) {
  const cargoBin = join(environment.CARGO_HOME ?? join(environment.HOME ?? homedir(), ".cargo"), "bin");
  const path = environment.PATH ?? "";
  if (path.split(delimiter).includes(cargoBin) || !existsSync(join(cargoBin, "cargo"))) return environment;
  return { ...environment, PATH: path === "" ? cargoBin : `${path}${delimiter}${cargoBin}` };
}

/** Refuses when cargo, a recent enough rustc or a C linker is missing. `cwd` decides rustup's toolchain. */
export function requireRust(environment, cwd) {
  const run = (command, args) => spawnSync(command, args, { env: environment, cwd, encoding: "utf8" });

  const cargo = run("cargo", ["--version"]);
  if (cargo.error) {
    throw new Refusal(
      "cargo was not found, and the data plane is built from Rust: install Rust from https://rustup.rs/, then run this again.",
    );
  }
  if (cargo.status !== 0) {
    throw new Refusal(
      `cargo does not run: ${firstLine(cargo.stderr)}; repair it with \`rustup toolchain install stable\`.`,
    );
  }
  const version = /(\d+)\.(\d+)\.\d+/.exec(cargo.stdout);
  const [major, minor] = version ? [Number(version[1]), Number(version[2])] : OLDEST_RUST;
  if (major < OLDEST_RUST[0] || (major === OLDEST_RUST[0] && minor < OLDEST_RUST[1])) {
    throw new Refusal(
      `Rust ${OLDEST_RUST.join(".")} or newer is needed (this is ${version[0]}): run \`rustup update stable\`.`,
    );
  }
  const linker = run("cc", ["--version"]);
  if (linker.error || linker.status !== 0) {
    throw new Refusal(
      "cc was not found, and Rust needs a C linker: install one (Debian, Ubuntu: `apt-get install gcc libc6-dev`; Fedora: `dnf install gcc`).",
    );
  }
}

function firstLine(text) {
  return (text ?? "").trim().split("\n")[0] ?? "";
}
