/** `convey explain --live`: the next packets or connections that match, each with its decision. */
import type { LiveDecision } from "../control/live.ts";
import { endWithReader, printLines, type RunningOptions, tellErrors } from "./running.ts";

type Filter = { protocol?: string | undefined; client?: string | undefined; vip?: string | undefined };

/** Tells them until the time or the count is over, or the running one ends. */
export async function watch(
  options: RunningOptions & { count?: number; duration?: number },
  filter: Filter,
): Promise<void> {
  await tellErrors(options.json, async () => {
    const [{ follow }, { createParser }, { sentences }] = await Promise.all([
      import("./api.ts"),
      import("eventsource-parser"),
      import("./explain.ts"),
    ]);
    const parts = { ...filter, count: options.count, duration_ms: options.duration };
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(parts)) {
      if (value !== undefined) query.set(name, `${value}`);
    }
    const parser = createParser({
      onEvent: ({ data }) => {
        if (options.json) return printLines([data]);
        const { at, explanation, lost } = JSON.parse(data) as LiveDecision;
        if (lost > 0) printLines([`(${lost} more came faster than they could be told)`]);
        process.stdout.write(`${at} ${sentences(explanation)}`);
      },
    });
    endWithReader();
    await follow(options, `/api/v1/explain/live?${query}`, (text) => parser.feed(text));
  });
}
