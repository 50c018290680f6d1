/** How a health check introduces itself to a server that expects PROXY headers: as the balancer's own connection. */
import type { SendProxy } from "../../config/schema.ts";

/** Version 2: signature, LOCAL, no family, no addresses. */
const LOCAL = Buffer.from("0d0a0d0a000d0a515549540a20000000", "hex");

/** What a check sends before anything else; undefined for nothing. Version 1 has no word for LOCAL but UNKNOWN. */
export function proxyHeaderForChecks(version: SendProxy): Buffer | undefined {
  if (version === "off") return undefined;
  return version === "v1" ? Buffer.from("PROXY UNKNOWN\r\n", "latin1") : LOCAL;
}

/** The address that checks start from: the first of a backend's source addresses of the server's family. */
export function checkSource(
  source: "client" | readonly string[] | undefined,
  host: string,
): string | undefined {
  if (source === undefined || source === "client") return undefined;
  return source.find((address) => address.includes(":") === host.includes(":"));
}
