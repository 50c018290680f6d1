/**
 * One suite for all methods of the packet modes, through the command line. Vitest runs it once for each engine; methods
 * have files of their own, so that they run side by side.
 */
import { describe } from "vitest";
import { inKernel } from "../engines.ts";
import { type Method, stage } from "../lab/scene.ts";
import { access } from "./access.ts";
import { frames } from "./frames.ts";
import { limits } from "./limits.ts";
import { minimal } from "./minimal.ts";
import { modes } from "./modes.ts";
import { outliving } from "./outliving.ts";
import { restarts } from "./restarts.ts";

/** Registers all cases of a method, with clients and servers on one interface of the balancer. */
export function suite(method: Method): void {
  describe(`${method}, one-arm`, () => {
    const stands = stage(method, "one-arm", ["tcpdump", "cargo"]);
    restarts(stands);
    if (inKernel()) outliving(stands);
    // Both methods of DSR are one program in this.
    if (method !== "l2") limits(stands);
    access(stands);
    frames(stands);
    if (method !== "passthrough") minimal(stands);
    // Last: it changes the lab for good.
    modes(stands);
  });
}

/** Registers what may differ with servers behind a second interface. */
export function behindTwoInterfaces(method: Method): void {
  describe(`${method}, two-arm`, () => {
    modes(stage(method, "two-arm"));
  });
}
