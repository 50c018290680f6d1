/** One suite for all methods of the packet modes, through the command line. Vitest runs it once for each engine. */
import { describe } from "vitest";
import { type Method, stage } from "../lab/scene.ts";
import { frames } from "./frames.ts";
import { limits } from "./limits.ts";
import { modes } from "./modes.ts";
import { restarts } from "./restarts.ts";

/** Registers all cases of a method. */
export function suite(method: Method): void {
  describe(`${method}, one-arm`, () => {
    const stands = stage(method, "one-arm", ["tcpdump", "cargo"]);
    restarts(stands);
    limits(stands);
    frames(stands);
    // Last: it changes the lab for good.
    modes(stands);
  });
  describe(`${method}, two-arm`, () => {
    modes(stage(method, "two-arm"));
  });
}
