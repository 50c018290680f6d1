/** Where frontends and the HTTP server listen, so that a reload can move them over each other's addresses. */
import { hostPort } from "../config/address.ts";
import { listenAddresses, listenKey } from "../config/listen.ts";
import type { Config } from "../config/schema.ts";
import type { FrontendListener } from "../http/slot.ts";
import { ConveyError } from "../native/index.ts";
import type { ListenAddress } from "./options.ts";

/** A listener of the configuration, with the key that says so. */
type ConfiguredListener = FrontendListener & { key: "listen" | "listen_addr" };

/** Where a configuration has frontends listen; in the packet modes nothing does. */
export function configuredListeners({ mode, frontends }: Config): ConfiguredListener[] {
  if (mode !== "proxy") return [];
  return Object.entries(frontends).flatMap(([name, frontend]) =>
    listenAddresses(frontend).map((address) => ({ name, key: listenKey(frontend), ...address })),
  );
}

/**
 * The data plane would take the HTTP server for another process.
 *
 * @throws ConveyError `BIND_FAILED` when one of `frontends` is to listen where `own` does.
 */
export function refuseOwnAddress(
  own: ListenAddress | undefined,
  frontends: readonly ConfiguredListener[],
): void {
  const clash = own && frontends.find((f) => f.port === own.port && isSameOrAny(f.host, own.host));
  if (clash === undefined) return;
  throw new ConveyError(
    "BIND_FAILED",
    `cannot listen on ${hostPort(clash)} for frontend "${clash.name}": the statistics server of this convey listens there; choose another address or port`,
    { field: `frontends.${clash.name}.${clash.key}` },
  );
}

const isSameOrAny = (a: string, b: string): boolean =>
  a === b || [a, b].some((h) => h === "0.0.0.0" || h === "::");
