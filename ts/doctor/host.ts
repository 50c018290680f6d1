/** The host as the checks read it: files, commands, connections. Tests put recorded hosts in its place. */
import { execFile } from "node:child_process";
import { closeSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { createConnection, isIPv4, type Socket } from "node:net";
import { delimiter } from "node:path";
import { getSystemErrorName } from "node:util";
import type { SocketAddress } from "../config/address.ts";
import type { Config } from "../config/schema.ts";
import type { ServerAddress } from "../config/server-address.ts";
import { Lookup } from "../control/dns/lookup.ts";
import { Resolver } from "../control/dns/resolver.ts";
import type { DataplaneModule, NativeKernelReport } from "../native/index.ts";
import { NotChecked } from "./finding.ts";

/** Everything that checks know of the machine comes through here. */
export interface Host {
  /**
   * The text of a file; undefined where there is none.
   *
   * @throws NotChecked where it may not be read.
   */
  read(path: string): string | undefined;
  /** Where a symbolic link leads; undefined where there is none or it may not be read. */
  link(path: string): string | undefined;
  /** Names in a folder; none where there is no such folder. */
  list(path: string): string[];
  /**
   * What a command prints on standard output; undefined when it fails.
   *
   * @throws NotChecked where there is no such command.
   */
  run(command: readonly string[]): Promise<string | undefined>;
  /** Connects by TCP and hangs up; the error's code ("ECONNREFUSED", "TIMEOUT"), or undefined when it worked. */
  connect(address: SocketAddress, timeoutMs: number): Promise<string | undefined>;
  /** The same to a Unix socket: a path, or `@` and an abstract name. */
  connectUnix(path: string, timeoutMs: number): Promise<string | undefined>;
  /** Asks DNS, and the hosts file, for the addresses of a name, as the balancer does. */
  resolve(
    name: ServerAddress & { kind: "name" | "srv" },
    settings: Config["resolver"],
    timeoutMs: number,
  ): Promise<Answered>;
  /** Milliseconds of the system clock, and of the one that is never set. */
  clocks(): { system: number; monotonic: number };
  /** What the data plane finds out about the kernel. */
  kernel(): NativeKernelReport;
}

/** What became of a question for a name: its addresses, or why there are none. */
export type Answered = { addresses: SocketAddress[]; cause: string };

/** Debian's package of a command, for whoever lacks it. */
const PACKAGES: Readonly<Record<string, string>> = { ip: "iproute2", tc: "iproute2", nft: "nftables" };
const COMMAND_TIMEOUT_MS = 5000;

/** The machine this runs on. */
export function thisHost(dataplane: DataplaneModule): Host {
  let kernel: NativeKernelReport | undefined;
  return {
    read(path) {
      try {
        return readFileSync(path, "utf8");
      } catch (cause) {
        const { code } = cause as NodeJS.ErrnoException;
        if (code === "EACCES" || code === "EPERM") throw new NotChecked(`root, to read ${path}`, cause);
        return undefined;
      }
    },
    link(path) {
      try {
        return readlinkSync(path);
      } catch {
        return undefined;
      }
    },
    list(path) {
      try {
        return readdirSync(path);
      } catch {
        return [];
      }
    },
    run: ([file = "", ...args]) =>
      new Promise((resolve, reject) => {
        const env = { ...process.env, LC_ALL: "C", PATH: withSbin(process.env.PATH) };
        execFile(file, args, { env, timeout: COMMAND_TIMEOUT_MS, maxBuffer: 1 << 26 }, (cause, stdout) => {
          const missing = (cause as NodeJS.ErrnoException | null)?.code === "ENOENT";
          if (missing)
            reject(new NotChecked(`the command ${file} (package ${PACKAGES[file] ?? file})`, cause));
          else resolve(cause === null ? stdout : undefined);
        });
      }),
    connect: ({ host, port }, timeoutMs) => hangUp(createConnection({ host, port }), timeoutMs),
    connectUnix: (path, timeoutMs) => {
      if (path.startsWith("@")) {
        const fd = dataplane.connectAbstract(path.slice(1));
        if (fd < 0) return Promise.resolve(getSystemErrorName(fd));
        closeSync(fd);
        return Promise.resolve(undefined);
      }
      return hangUp(createConnection({ path }), timeoutMs);
    },
    resolve,
    clocks: () => ({ system: Date.now(), monotonic: performance.now() }),
    kernel: () => {
      kernel ??= dataplane.kernelReport();
      return kernel;
    },
  };
}

/** Waits for the connection and ends it. */
function hangUp(socket: Socket, timeoutMs: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const end = (code?: string) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(code);
    };
    const timer = setTimeout(end, timeoutMs, "TIMEOUT");
    socket.once("connect", () => end());
    socket.once("error", (cause: NodeJS.ErrnoException) => end(cause.code ?? cause.message));
  });
}

async function resolve(
  name: ServerAddress & { kind: "name" | "srv" },
  settings: Config["resolver"],
  timeoutMs: number,
): Promise<Answered> {
  const [resolver, lookup] = [new Resolver(settings), new Lookup(name)];
  const timing = {
    minTtlMs: settings.min_ttl_ms,
    maxTtlMs: settings.max_ttl_ms,
    holdMs: settings.hold_ms,
  };
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<"late">((done) => {
    timer = setTimeout(done, timeoutMs, "late");
  });
  const asked = lookup.refresh(resolver.ask, timing, () => performance.now());
  const end = await Promise.race([asked, late]);
  clearTimeout(timer);
  resolver.close();
  const addresses = lookup
    .addresses()
    .map(({ host, port }): SocketAddress => ({ family: isIPv4(host) ? 4 : 6, host, port }));
  const cause = end === "late" ? `no answer within ${timeoutMs} ms` : lookup.look().cause;
  return { addresses, cause };
}

/** Users' PATH often lacks where Debian keeps ethtool. */
function withSbin(path = ""): string {
  return [path, "/usr/sbin", "/sbin"].filter(Boolean).join(delimiter);
}
