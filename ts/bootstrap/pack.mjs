/**
 * `npm run pack:all`: the two tarballs that make an installation without a toolchain. The platform package
 * holds the addon; the main package names it as an optional dependency, so that npm fetches the one that fits.
 */
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ADDON_FILE, PLATFORM, ROOT } from "./steps.mjs";

const staging = join(ROOT, "target", "pack");
const manifest = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));

rmSync(staging, { recursive: true, force: true });
const tarballs = [pack(stagePlatform()), pack(stageMain())];
for (const tarball of tarballs) console.log(tarball);

/** What both manifests share. */
function shared() {
  const { version, license, repository, engines, os } = manifest;
  return { version, license, ...(repository ? { repository } : {}), engines, os };
}

function stagePlatform() {
  const directory = join(staging, PLATFORM.name);
  mkdirSync(directory, { recursive: true });
  const addon = ADDON_FILE.slice(ADDON_FILE.lastIndexOf("/") + 1);
  cpSync(join(ROOT, ADDON_FILE), join(directory, addon));
  cpSync(join(ROOT, "LICENSE"), join(directory, "LICENSE"));
  write(directory, {
    name: PLATFORM.name,
    description: `The data plane of ${manifest.name} for ${PLATFORM.triple}`,
    ...shared(),
    cpu: [process.arch],
    libc: [PLATFORM.libc === "gnu" ? "glibc" : "musl"],
    main: addon,
    files: [addon],
  });
  return directory;
}

function stageMain() {
  const directory = join(staging, manifest.name);
  mkdirSync(directory, { recursive: true });
  const skipped = (path) => path.endsWith(".node") || path.endsWith(".map");
  cpSync(join(ROOT, "dist"), join(directory, "dist"), { recursive: true, filter: (path) => !skipped(path) });
  for (const extra of ["samples", "README.md", "CHANGELOG.md", "LICENSE"]) {
    if (existsSync(join(ROOT, extra))) cpSync(join(ROOT, extra), join(directory, extra), { recursive: true });
  }
  const { name, description, type, main, types, exports, dependencies } = manifest;
  // No scripts: installing runs nothing. No bootstrap either: there is nothing to build.
  write(directory, {
    name,
    description,
    ...shared(),
    type,
    bin: { convey: "dist/cli/main.js" },
    main,
    types,
    exports,
    files: ["dist", "samples", "CHANGELOG.md"],
    dependencies,
    optionalDependencies: Object.fromEntries(platformPackages().map((each) => [each, manifest.version])),
  });
  return directory;
}

/** Every platform package that the addon's loader asks for by name. */
function platformPackages() {
  const words = { x86_64: "x64", aarch64: "arm64" };
  return manifest.napi.targets.map((target) => {
    const [cpu, , os, libc] = target.split("-");
    return `${manifest.name}-${os}-${words[cpu]}-${libc}`;
  });
}

function write(directory, content) {
  writeFileSync(join(directory, "package.json"), `${JSON.stringify(content, undefined, 2)}\n`);
}

function pack(directory) {
  const before = new Set(readdirSync(staging));
  const npm = process.env.npm_execpath;
  const [file, args] = npm?.endsWith(".js") ? [process.execPath, [npm]] : ["npm", []];
  const packed = spawnSync(
    file,
    [...args, "pack", "--silent", "--ignore-scripts", "--pack-destination", staging],
    {
      cwd: directory,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "inherit"],
    },
  );
  const made = readdirSync(staging).find((name) => name.endsWith(".tgz") && !before.has(name));
  if (packed.status !== 0 || made === undefined) {
    console.error(`convey: packing ${directory} failed (exit code ${packed.status})`);
    process.exit(1);
  }
  return join(staging, made);
}
