/** The host as the checks read it: files, commands, connections. Tests put recorded hosts in its place. */
import { execFile } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { createConnection } from "node:net";
import { delimiter } from "node:path";
import type { SocketAddress } from "../config/address.ts";
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
  /** Milliseconds of the system clock, and of the one that is never set. */
  clocks(): { system: number; monotonic: number };
  /** What the data plane finds out about the kernel. */
  kernel(): NativeKernelReport;
}

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
    connect: ({ host, port }, timeoutMs) =>
      new Promise((resolve) => {
        const socket = createConnection({ host, port });
        const end = (code?: string) => {
          clearTimeout(timer);
          socket.destroy();
          resolve(code);
        };
        const timer = setTimeout(end, timeoutMs, "TIMEOUT");
        socket.once("connect", () => end());
        socket.once("error", (cause: NodeJS.ErrnoException) => end(cause.code ?? cause.message));
      }),
    clocks: () => ({ system: Date.now(), monotonic: performance.now() }),
    kernel: () => {
      kernel ??= dataplane.kernelReport();
      return kernel;
    },
  };
}

/** Users' PATH often lacks where Debian keeps ethtool. */
function withSbin(path = ""): string {
  return [path, "/usr/sbin", "/sbin"].filter(Boolean).join(delimiter);
}
