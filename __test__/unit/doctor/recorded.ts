/** Hosts as they were recorded: for what cannot be broken in a namespace (cards, modules, clocks, control groups). */
import { type Config, configSchema } from "../../../ts/config/schema.ts";
import type { Host } from "../../../ts/doctor/host.ts";
import type { Look } from "../../../ts/doctor/look.ts";
import { Network } from "../../../ts/doctor/network.ts";
import type { NativeHostReport, NativeKernelReport } from "../../../ts/native/index.ts";

export interface Recording {
  files?: Record<string, string>;
  /** Where symbolic links lead. */
  links?: Record<string, string>;
  /** Standard output by command line. */
  commands?: Record<string, string>;
  kernel?: Partial<NativeKernelReport>;
  /** What the system clock gains on the monotonic one at each look. */
  stepMs?: number;
}

export function recordedHost({
  files = {},
  links = {},
  commands = {},
  kernel = {},
  stepMs = 0,
}: Recording): Host {
  let now = 0;
  return {
    read: (path) => files[path],
    link: (path) => links[path],
    list: (path) => [
      ...new Set(
        Object.keys(files)
          .filter((file) => file.startsWith(`${path}/`))
          .map((file) => file.slice(path.length + 1).split("/")[0] as string),
      ),
    ],
    run: async (command) => commands[command.join(" ")],
    connect: async () => undefined,
    connectUnix: async () => undefined,
    resolve: async () => ({ addresses: [], cause: "" }),
    clocks: () => {
      now += 1;
      return { system: now * (1 + stepMs), monotonic: now };
    },
    kernel: () => ({ bpfRefused: "", csumIpv6: true, clockSynchronized: true, ...kernel }),
  };
}

export const CARD = {
  name: "eth0",
  kind: "",
  driver: "ice",
  mtu: 1500,
  nativeXdp: true,
  xdpProgram: false,
  tcxPrograms: [],
};

export function look(
  recording: Recording,
  settings: { config?: object; report?: Partial<NativeHostReport> } = {},
): Look {
  const host = recordedHost(recording);
  const config = configSchema.parse({
    mode: "passthrough",
    frontends: { web: { listen_addr: "10.0.0.1:80", backend: "app" } },
    backends: { app: { servers: { one: { addr: "10.0.0.11:80" } } } },
    ...settings.config,
  }) as Config;
  const report = {
    engine: "tc",
    refusedEngines: [],
    links: [CARD],
    refused: "",
    problems: [],
    notes: [],
    ...settings.report,
  };
  return { host, network: new Network(host), config, report, refusal: undefined, running: undefined };
}
