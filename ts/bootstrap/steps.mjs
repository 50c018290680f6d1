/**
 * The steps between a clone and a program: packages, addon, dashboard, JavaScript. Each is skipped while its stamp
 * under target/ is fresh; progress goes to standard error so that a command's own output stays clean.
 */
import { spawn } from "node:child_process";
import {
  accessSync,
  chmodSync,
  constants,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { withLock } from "./lock.mjs";
import { filesBelow, hashOf, isFresh, writeStamp } from "./stamp.mjs";
import { buildEnvironment, Refusal, requireRust } from "./toolchain.mjs";

/** The checkout. */
export const ROOT = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "");

const ADDON = "ts/native/addon";
/** What browsers get, bundled from the client's sources. */
const CLIENT = "ts/dashboard/client";
const ASSETS = "ts/dashboard/assets";
process.report.excludeNetwork = true; // looking up names of peers can take seconds
const libc = process.report.getReport().header.glibcVersionRuntime ? "gnu" : "musl";
const triple = `linux-${process.arch}-${libc}`;

/** The platform this runs on, as the addon's loader names it. */
export const PLATFORM = { name: `convey-${triple}`, triple, libc };
/** The addon that the checkout builds. */
export const ADDON_FILE = `${ADDON}/convey.${triple}.node`;
const stampFile = (name) => join(ROOT, "target", "bootstrap", `${name}.json`);

const STEPS = [
  {
    name: "packages",
    progress: "installing npm packages",
    inputs() {
      const { dependencies, devDependencies, optionalDependencies, overrides } = manifest();
      const wanted = JSON.stringify({ dependencies, devDependencies, optionalDependencies, overrides });
      return hashOf(ROOT, ["package-lock.json"], [wanted, process.arch]);
    },
    outputs() {
      const { dependencies, devDependencies } = manifest();
      return Object.keys({ ...dependencies, ...devDependencies }).map(
        (name) => `node_modules/${name}/package.json`,
      );
    },
    // Not `npm ci`, which refuses a lock file that lacks optional packages of other platforms. `--no-save`
    // leaves the lock file as it is; the includes undo NODE_ENV=production and an `omit` in somebody's npmrc.
    run: (environment) =>
      npm(environment, [
        "install",
        "--no-save",
        "--include=dev",
        "--include=optional",
        "--prefer-offline",
        "--no-audit",
        "--no-fund",
      ]),
  },
  {
    name: "addon",
    progress: "building the data plane (Rust; the first time takes a minute or two)",
    inputs() {
      const files = filesBelow(ROOT, "crates", (path) => !/\.md$|\/(tests|examples)\//.test(path));
      const settings = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", ".cargo/config.toml"];
      const { napi, scripts } = manifest();
      return hashOf(ROOT, [...settings, ...files], [JSON.stringify(napi), scripts["build:native"]]);
    },
    outputs: () => [ADDON_FILE, `${ADDON}/index.js`, `${ADDON}/index.d.ts`],
    require: (environment) => requireRust(environment, ROOT),
    run: (environment) => npm(environment, ["run", "--silent", "build:native"]),
  },
  {
    name: "dashboard",
    progress: "bundling the dashboard",
    inputs() {
      // Types alone come from elsewhere, and are gone by then.
      const files = filesBelow(ROOT, "ts/dashboard", (path) => !path.startsWith(`${ASSETS}/`));
      const { esbuild, uplot } = manifest().devDependencies;
      return hashOf(ROOT, files, [esbuild, uplot]);
    },
    outputs: () => ["app.js", "app.css", "icon.svg"].map((name) => `${ASSETS}/${name}`),
    run: bundle,
  },
  {
    name: "javascript",
    progress: "compiling TypeScript",
    inputs() {
      const files = filesBelow(ROOT, "ts", (path) => /\.tsx?$/.test(path) && !isOfBrowser(path));
      const settings = ["tsconfig.json", "tsconfig.build.json"];
      return hashOf(ROOT, [...settings, ...files], [manifest().devDependencies.typescript]);
    },
    outputs: () => ["dist/cli/main.js"],
    async run(environment) {
      await command(environment, process.execPath, [
        "node_modules/typescript/bin/tsc",
        "-p",
        "tsconfig.build.json",
      ]);
      pruneOutput();
      chmodSync(join(ROOT, "dist/cli/main.js"), 0o755);
    },
  },
];

/** Runs every step that is stale, one bootstrap at a time; returns the names of those that ran. */
export async function bringUpToDate() {
  const allFresh = () => STEPS.every(fresh) && assetsToCopy().length === 0;
  if (allFresh()) return [];
  const waiting = () => say("another build of this checkout is running; waiting for it");
  return withLock(ROOT, waiting, async () => {
    const ran = [];
    const environment = buildEnvironment();
    // Told before the first step takes its time.
    requireWritable();
    for (const step of STEPS) if (!fresh(step)) step.require?.(environment);
    for (const step of STEPS) {
      if (fresh(step)) continue;
      const begun = Date.now();
      say(`${step.progress} …`);
      // Taken before the work: an edit made meanwhile must make the stamp stale.
      const inputs = step.inputs();
      await step.run(environment);
      writeStamp(ROOT, stampFile(step.name), inputs, step.outputs());
      say(`${step.name} ready in ${((Date.now() - begun) / 1000).toFixed(1)} s`);
      ran.push(step.name);
    }
    for (const asset of assetsToCopy()) copyAsset(asset);
    return ran;
  });
}

/** A checkout of somebody else, or on a read-only file system, can be run but not built. */
function requireWritable() {
  for (const folder of ["", "target", "node_modules", "dist", ADDON]) {
    const path = join(ROOT, folder);
    try {
      if (existsSync(path)) accessSync(path, constants.W_OK);
    } catch {
      throw new Refusal(
        `${path} cannot be written by this user, and something there has to be built: build as its owner, or in a copy.`,
      );
    }
  }
}

function fresh(step) {
  return isFresh(ROOT, stampFile(step.name), step.inputs(), step.outputs());
}

function manifest() {
  return JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
}

/** One script and one style sheet, minified. */
async function bundle(environment) {
  // A program or a script of Node, as npm was allowed to install it.
  await command(environment, join(ROOT, "node_modules/.bin/esbuild"), [
    `--outdir=${ASSETS}`,
    "--bundle",
    "--minify",
    "--format=esm",
    "--target=chrome109,firefox115,safari16.4",
    "--log-level=warning",
    `${CLIENT}/app.ts`,
    `${CLIENT}/app.css`,
  ]);
  copyFileSync(join(ROOT, CLIENT, "icon.svg"), join(ROOT, ASSETS, "icon.svg"));
}

/** Sources of what browsers get, which Node never reads. */
function isOfBrowser(path) {
  return path.startsWith(`${CLIENT}/`);
}

/** Files that tsc does not carry over (addon, its loader, the dashboard's assets) and whose copy in dist/ is missing or older. */
function assetsToCopy() {
  const carried = (path) =>
    !path.startsWith("ts/bootstrap/") &&
    !isOfBrowser(path) &&
    (!/\.tsx?$/.test(path) || path.endsWith(".d.ts"));
  return filesBelow(ROOT, "ts", carried).filter((asset) => {
    const copy = inDist(asset);
    if (!existsSync(copy)) return true;
    const [from, to] = [statSync(join(ROOT, asset)), statSync(copy)];
    return from.size !== to.size || from.mtimeMs > to.mtimeMs;
  });
}

function inDist(asset) {
  return join(ROOT, "dist", asset.slice("ts/".length));
}

/** Replaces by rename: a running Convey has the addon mapped, and writing into it would kill that process. */
function copyAsset(asset) {
  const copy = inDist(asset);
  mkdirSync(dirname(copy), { recursive: true });
  const temporary = `${copy}.${process.pid}`;
  copyFileSync(join(ROOT, asset), temporary);
  renameSync(temporary, copy);
}

/** Removes what an earlier compile left in dist/ of sources that are gone. */
function pruneOutput() {
  for (const output of filesBelow(ROOT, "dist")) {
    const asset = output.replace(/^dist\//, "ts/");
    const source = asset.replace(/(\.d\.ts|\.js)(\.map)?$/, ".ts");
    const origins = [source, `${source}x`, asset].filter((path) => !isOfBrowser(path));
    if (!origins.some((path) => existsSync(join(ROOT, path)))) rmSync(join(ROOT, output));
  }
}

/** npm as it was started, or as it is found. */
function npm(environment, args) {
  const own = environment.npm_execpath;
  if (own?.endsWith(".js") && existsSync(own)) return command(environment, process.execPath, [own, ...args]);
  if (!(environment.PATH ?? "").split(delimiter).some((directory) => existsSync(join(directory, "npm")))) {
    throw new Refusal(
      "npm was not found; it comes with Node (https://nodejs.org/), on Debian in the package `npm`.",
    );
  }
  return command(environment, "npm", args);
}

function command(environment, file, args) {
  return new Promise((resolve, reject) => {
    // The child's standard output goes to ours for messages.
    const child = spawn(file, args, { cwd: ROOT, env: environment, stdio: ["ignore", 2, 2] });
    child.once("error", reject);
    child.once("exit", (code, signal) => {
      if (code === 0) return resolve();
      const what = args.filter((arg) => !arg.startsWith("/")).join(" ");
      reject(
        new Refusal(`\`${what}\` failed (${signal ?? `exit code ${code}`}); its own messages are above.`),
      );
    });
  });
}

function say(text) {
  console.error(`convey: ${text}`);
}
