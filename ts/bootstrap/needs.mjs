/**
 * What tests may need of a machine, declared once for Rust and vitest: the names below are the only ones that
 * `#[ignore = "needs root, nft: why"]` and `needs(context, { root: true, tools: ["nft"] })` may use. Set-up installs
 * from this table, and a test finds on its PATH nothing but `BASE` and what it declared.
 */
import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";

/**
 * Name → how it is checked, and the Debian package that brings it. `commands` must all be on the PATH (the name
 * itself unless given), or `file` must exist, or `met` must hold; what no package brings has a `remedy`.
 */
export const NEEDS = {
  root: { met: isFullRoot, remedy: "run as root; in a container, with CAP_SYS_ADMIN and CAP_NET_ADMIN" },
  "user-namespaces": { met: canUnshare, remedy: "run where users may make namespaces, not in a chroot" },
  chromium: { package: "chromium" },
  curl: { package: "curl" },
  dnsmasq: { package: "dnsmasq-base" },
  ethtool: { package: "ethtool" },
  fish: { package: "fish" },
  haproxy: { package: "haproxy" },
  ip: { package: "iproute2" },
  jq: { package: "jq" },
  nft: { package: "nftables" },
  nginx: { package: "nginx" },
  "nginx-stream": { file: "/usr/lib/nginx/modules/ngx_stream_module.so", package: "libnginx-mod-stream" },
  openssl: { package: "openssl" },
  prometheus: { package: "prometheus" },
  promtool: { package: "prometheus" },
  python3: { package: "python3" },
  socat: { package: "socat" },
  ss: { package: "iproute2" },
  strace: { package: "strace" },
  systemctl: { package: "systemd" },
  systemd: { file: "/lib/systemd/systemd", package: "systemd" },
  "systemd-analyze": { package: "systemd" },
  "systemd-socket-activate": { package: "systemd" },
  sysctl: { package: "procps" },
  tc: { package: "iproute2" },
  tcpdump: { package: "tcpdump" },
  zsh: { package: "zsh" },
  "clang-16": { package: "clang-16" },
  "llvm-16": { commands: ["llvm-objdump-16", "llvm-strip-16"], package: "llvm-16" },
  "libbpf-dev": { file: "/usr/include/bpf/bpf_helpers.h", package: "libbpf-dev" },
};

/** What every machine that can build Convey has: Debian's essential commands, Node, Rust and a C compiler. */
export const BASE = [
  // dash, bash, coreutils, findutils, grep, sed, tar, gzip, diffutils, hostname, an awk
  ..."sh bash env cat chmod chown cp cut date dd dirname basename du echo expr false head id install".split(
    " ",
  ),
  ..."ln ls md5sum mkdir mkfifo mktemp mv nice nohup nproc od paste printf pwd readlink realpath rm rmdir seq".split(
    " ",
  ),
  ..."sha256sum sleep sort stat stdbuf stty tail tee test timeout touch tr true truncate uname uniq wc".split(
    " ",
  ),
  ..."whoami yes find xargs grep sed awk tar gzip gunzip diff cmp hostname".split(" "),
  // util-linux, bsdutils, mount
  ..."chrt flock mount umount mountpoint nsenter prlimit script setpriv setsid taskset unshare".split(" "),
  ..."node npm npx cargo rustc rustdoc rustup rustfmt cc gcc ld as ar".split(" "),
];

/** The names in the reason of an ignored Rust test, `needs root, nft: why`; undefined for any other reason. */
export function namesIn(reason) {
  const list = /^needs ([^:]+)/.exec(reason)?.[1];
  return list?.split(/,\s*and\s+|,\s*|\s+and\s+/).map((name) => name.trim());
}

/** Those of `names` that neither the table nor `BASE` has. */
export function unknownNames(names, table = NEEDS) {
  return names.filter((name) => !Object.hasOwn(table, name) && !BASE.includes(name));
}

/** Those of `names` that this machine lacks. */
export function unmet(names, environment = process.env, table = NEEDS) {
  return names.filter((name) => !isThere(table[name] ?? {}, name, environment));
}

/** What to do about missing `names`, for people. */
export function remedy(names, table = NEEDS) {
  const packages = new Set(names.flatMap((name) => table[name]?.package ?? []));
  const install = packages.size === 0 ? [] : [`apt-get install ${[...packages].join(" ")}`];
  return [...names.flatMap((name) => table[name]?.remedy ?? []), ...install].join("; ");
}

/** Debian packages that would bring what is missing here. */
export function missingPackages(environment = process.env, table = NEEDS) {
  const wanted = Object.keys(table).filter((name) => table[name].package);
  return [...new Set(unmet(wanted, environment, table).map((name) => table[name].package))].sort();
}

/** Folders of programs; Debian keeps nginx and nft where a user's PATH does not look. */
export function searchPath(environment = process.env) {
  return [...new Set([...(environment.PATH ?? "").split(delimiter), "/usr/sbin", "/sbin"])].filter(Boolean);
}

/** Where a program is, or undefined. */
export function findCommand(name, environment = process.env) {
  return searchPath(environment)
    .map((folder) => join(folder, name))
    .find((file) => {
      try {
        accessSync(file, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

/**
 * A folder with links to `BASE` and to the commands of `names`, to be somebody's whole PATH: whatever a test starts
 * without having declared it is then missing on every machine. Remove it with `remove()`.
 */
export function onlyDeclared(names, environment = process.env, table = NEEDS) {
  const path = mkdtempSync(join(tmpdir(), "convey-path-"));
  const commands = names.flatMap((name) => (table[name] ? commandsOf(table[name], name) : [name]));
  for (const command of new Set([...BASE, ...commands])) {
    const file = findCommand(command, environment);
    if (file !== undefined) symlinkSync(file, join(path, command));
  }
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

function isThere(need, name, environment) {
  if (need.met) return need.met(environment);
  if (need.file) return existsSync(need.file);
  return commandsOf(need, name).every((command) => findCommand(command, environment) !== undefined);
}

function commandsOf(need, name) {
  return need.met || need.file ? [] : (need.commands ?? [name]);
}

/** Root of a container may lack what makes namespaces and interfaces. */
function isFullRoot() {
  if (process.getuid() !== 0) return false;
  const capabilities = BigInt(
    `0x${/^CapEff:\s*(\w+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? 0}`,
  );
  const [NET_ADMIN, NET_RAW, SYS_ADMIN] = [12n, 13n, 21n];
  return [NET_ADMIN, NET_RAW, SYS_ADMIN].every((bit) => (capabilities >> bit) & 1n);
}

let unshares;
/** Kernels, container runtimes and chroots forbid it. */
function canUnshare(environment) {
  unshares ??=
    spawnSync("unshare", ["--user", "--map-root-user", "--net", "true"], { env: environment }).status === 0;
  return unshares;
}
