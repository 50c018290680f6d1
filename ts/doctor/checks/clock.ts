/** The system clock: logs, events and certificates go by it. Flows and timeouts do not. */
import { type Found, notice, ok, warning } from "../finding.ts";
import type { Check, Look } from "../look.ts";

/** Clock sources that take a trap or a bus to read. */
const SLOW = ["hpet", "acpi_pm", "jiffies"];
const SOURCE = "/sys/devices/system/clocksource/clocksource0";
/** How long the two clocks are watched, and how far they may part in that time. */
const WATCH_MS = 300;
const STEP_MS = 50;

export const clock: Check = {
  name: "clock",
  find: async (look) => [kept(look), await steady(look), ...source(look)],
};

function kept({ host }: Look): Found {
  const { clockSynchronized } = host.kernel();
  if (clockSynchronized) return ok("the clock is synchronized", "adjtimex: STA_UNSYNC is not set");
  return notice({
    title: "nothing keeps the clock right",
    evidence: clockSynchronized === undefined ? "adjtimex does not tell" : "adjtimex: STA_UNSYNC is set",
    consequence:
      "Times in the log and in events drift away from those of other hosts; forwarding does not mind.",
    remedy: "apt-get install chrony",
  });
}

async function steady({ host }: Look): Promise<Found> {
  const before = host.clocks();
  await new Promise((resolve) => setTimeout(resolve, WATCH_MS));
  const after = host.clocks();
  const step = after.system - before.system - (after.monotonic - before.monotonic);
  const evidence = `system clock against the monotonic one: ${Math.round(step)} ms apart in ${Math.round(after.monotonic - before.monotonic)} ms`;
  if (Math.abs(step) < STEP_MS) return ok("the clock does not jump", evidence);
  return warning({
    title: "the clock jumps",
    evidence,
    consequence:
      "Times in the log and in events are wrong; flows and timeouts go by the monotonic clock and are right.",
    remedy: "chronyc makestep && chronyc tracking",
  });
}

function source({ host }: Look): Found[] {
  const current = host.read(`${SOURCE}/current_clocksource`)?.trim() ?? "";
  if (!SLOW.includes(current)) return [];
  const better = (host.read(`${SOURCE}/available_clocksource`) ?? "")
    .trim()
    .split(" ")
    .find((name) => !SLOW.includes(name));
  return [
    notice({
      title: `reading the clock is slow (${current})`,
      evidence: `${SOURCE}/current_clocksource is ${current}`,
      consequence: "Every batch of packets and every timer pays for a read of some microseconds.",
      remedy:
        better === undefined ? "boot with tsc=reliable" : `echo ${better} > ${SOURCE}/current_clocksource`,
    }),
  ];
}
