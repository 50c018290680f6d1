/** Who cannot be a client of a packet mode, whatever the network. */
import type { Config } from "./schema.ts";

/** What a configuration cannot do for clients that are on the balancer or are servers themselves, in words. */
export function unserved(config: Config): string[] {
  if (config.mode === "proxy") return [];
  const said = [
    `clients on this host itself are not served in mode ${config.mode}: their packets to a frontend pass no link`,
  ];
  const methods = Object.values(config.backends).map((backend) => backend.dsr_method ?? config.dsr.method);
  if (config.mode === "dsr" && methods.includes("rewrite")) {
    said.push(
      'a server cannot be its own client with method "rewrite": connections that would go back to it are refused (server_is_client)',
    );
  }
  return said;
}
