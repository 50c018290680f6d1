/** The log's queue: what a reader that stops costs, and how it is told. */
import { execFileSync } from "node:child_process";
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { openLog } from "../../../ts/cli/logger.ts";
import { until } from "../../support/processes.ts";

test("lines beyond the limit are counted, and told in the form of all others once the reader goes on", async () => {
  const directory = mkdtempSync(join(tmpdir(), "convey-log-"));
  const path = join(directory, "pipe");
  execFileSync("mkfifo", [path]);
  const reader = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  const writer = openSync(path, constants.O_WRONLY);
  try {
    const { logger } = openLog("info", writer);
    const filler = "x".repeat(1000);
    for (let line = 0; line < 2000; line++) logger.info({ line, filler }, "a line");
    let text = "";
    const buffer = Buffer.alloc(1 << 16);
    const read = () => {
      try {
        for (;;) text += buffer.toString("utf8", 0, readSync(reader, buffer));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
      }
      return / lost: /.test(text);
    };
    await until(read, "the lost lines told", 20_000);
    const records = text
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { level: string; time: string; msg: string; lost?: number });
    const lost = records.find((record) => record.lost !== undefined);
    expect(lost).toMatchObject({
      level: "warn",
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      msg: expect.stringMatching(/^\d+ log lines were lost: they could not be written in time$/),
    });
    expect(records.length - 1 + (lost?.lost ?? 0)).toBe(2000);
  } finally {
    closeSync(writer);
    closeSync(reader);
    rmSync(directory, { recursive: true });
  }
});
