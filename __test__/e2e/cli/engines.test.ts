/** Engines that the network suite leaves out: each is one skipped test here, for as long as Convey refuses it. */
import { describe, expect, test } from "vitest";
import { ENGINES } from "../../net/engines.ts";
import { sampleFile } from "../../support/samples.ts";
import { convey } from "./convey.ts";

describe("the network suite on every engine", () => {
  for (const { name, without } of ENGINES) {
    test(`${name} is run, or refused by name and left out with a reason`, async (context) => {
      const args = ["validate", "--no-host", sampleFile("passthrough"), "--engine", name];
      const { code, stderr, stdout } = await convey(args);
      if (without === undefined) {
        expect({ code, stderr }).toMatchObject({ code: 0 });
        return;
      }
      expect(code, "an engine that Convey takes must be run: take its `without` away").toBe(1);
      expect(stdout + stderr).toMatch(/engine: is not in this version/);
      context.skip(without);
    });
  }
});
