/** Numbers as people read them, the same on the page, in its snapshot and in the terminal. */

/** "1,234,567" */
export const count = (n: number): string => (n < 1000 ? String(n) : WITH_COMMAS.format(n));

/** Made once: making it is most of what a number costs. */
const WITH_COMMAS = new Intl.NumberFormat("en-US");

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** "17.2 MiB" */
export function bytes(n: number): string {
  let value = n;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const shown = unit === 0 ? Math.round(value) : value >= 100 ? value.toFixed(0) : value.toFixed(1);
  return `${shown} ${UNITS[unit]}`;
}

/** A rate of something that is counted: "0.3", "12", "1,234". */
export const perSecond = (n: number): string => (n > 0 && n < 10 ? n.toFixed(1) : count(Math.round(n)));

/** "02:03:04", from a day on "3 d 02:03:04". */
export function clock(seconds: number): string {
  const whole = Math.floor(seconds);
  const days = Math.floor(whole / 86_400);
  const parts = [Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
  const text = parts.map((n) => String(n).padStart(2, "0")).join(":");
  return days > 0 ? `${days} d ${text}` : text;
}

/** How long something lasts, in its largest unit: "7 s", "12 min", "3 h", "5 d". */
export function ago(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  return whole < 86_400 ? `${Math.floor(whole / 3600)} h` : `${Math.floor(whole / 86_400)} d`;
}

/** "0.4 ms", "120 ms" */
export const millis = (ms: number): string => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;

/** What stands where nothing is counted. */
export const UNCOUNTED = "–";
/** What stands for the answers' way where it does not pass the balancer. */
export const NOT_VISIBLE = "not visible here";
