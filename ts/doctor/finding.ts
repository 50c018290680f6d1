/** What the doctor tells: one finding for each thing looked at, in one form on balancers and on servers. */

/** `error`: traffic fails. `warning`: it fails for some, or will. `notice`: it could be better, or was not looked at. */
export type Severity = "ok" | "notice" | "warning" | "error";

/** A kernel parameter to set; of `net.ipv4.ip_local_reserved_ports` the ports of `value` are added to those there. */
export interface Setting {
  /** As sysctl takes it. */
  key: string;
  value: string;
}

/** One finding; its fields are the ones of `--json`. */
export interface Finding {
  /** Stable name of the check that found it. */
  check: string;
  /** What it is about: an interface, an address, `backend/server`, a kernel parameter; "" is the host. */
  subject: string;
  severity: Severity;
  /** False where it could not be looked at; `title` says what that needs. */
  checked: boolean;
  title: string;
  /** What was read, and from where. */
  evidence: string;
  /** What comes of it, one sentence; "" where nothing does. */
  consequence: string;
  /** A command to paste, or the key of the configuration to change; "" where there is nothing to do. */
  remedy: string;
  /** What `--fix` sets; empty where it does nothing about it. */
  fix: Setting[];
}

/** A check gives findings without its name. */
export type Found = Omit<Finding, "check">;

type Told = Pick<Found, "title" | "evidence"> & Partial<Found>;

function found(severity: Severity, told: Told): Found {
  return { subject: "", checked: true, consequence: "", remedy: "", fix: [], ...told, severity };
}

export const ok = (title: string, evidence: string, subject = ""): Found =>
  found("ok", { title, evidence, subject });

type Bad = Told & Required<Pick<Found, "consequence" | "remedy">>;

export const notice = (told: Bad): Found => found("notice", told);
export const warning = (told: Bad): Found => found("warning", told);
export const error = (told: Bad): Found => found("error", told);

/** The remedy and the fix that sets these parameters. */
export function setting(...fix: Setting[]): Pick<Found, "remedy" | "fix"> {
  const quoted = (value: string): string => (/^[\w.,-]+$/.test(value) ? value : `"${value}"`);
  return { remedy: fix.map(({ key, value }) => `sysctl -w ${key}=${quoted(value)}`).join("; "), fix };
}

/** Thrown where something cannot be looked at: a privilege, a program or a kernel feature is missing. */
export class NotChecked extends Error {
  readonly needs: string;

  constructor(needs: string, cause?: unknown) {
    super(`not checked: needs ${needs}`, { cause });
    this.needs = needs;
  }

  finding(): Found {
    return found("notice", { title: this.message, evidence: "", checked: false });
  }
}
