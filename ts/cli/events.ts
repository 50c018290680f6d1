/** `convey events`: what happens in the running balancer, as it happens. */
import type { Command } from "commander";
import { refuseOperands } from "./options.ts";
import { addRunningOptions, endWithReader, printLines, type RunningOptions, tellErrors } from "./running.ts";

export function eventsCommand(program: Command): void {
  const command = program
    .command("events")
    .description(
      "tell what happens in the running one until it ends: health, reloads, drains, weights, servers",
    )
    .allowExcessArguments();
  addRunningOptions(command, "print one JSON object a line, as GET /api/v1/events has them").action(
    async (options: RunningOptions) => {
      refuseOperands(command);
      await tellErrors(options.json, async () => {
        const [{ follow }, { createParser }, { narrate }, { inert }] = await Promise.all([
          import("./api.ts"),
          import("eventsource-parser"),
          import("../control/narrate.ts"),
          import("../config/problem.ts"),
        ]);
        const parser = createParser({
          onEvent: ({ data }) => {
            if (options.json) return printLines([data]);
            const event = JSON.parse(data, revived);
            for (const { level, message } of narrate(event)) {
              const mark = level === "info" ? "" : `${level}: `;
              printLines([`${event.at.toTimeString().slice(0, 8)} ${mark}${inert(message)}`]);
            }
          },
        });
        endWithReader();
        await follow(options, "/api/v1/events", (text) => parser.feed(text));
        process.stderr.write("convey: the running one has ended\n");
      });
    },
  );
}

/** Times come as text. */
const revived = (key: string, value: unknown): unknown =>
  (key === "at" || key === "confirm_by") && typeof value === "string" ? new Date(value) : value;
