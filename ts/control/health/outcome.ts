/** How checks end, and what the errors of sockets say about a server. */

/**
 * How a check ended. `local`: we, not the server, were at fault, and nothing was learnt about it. `durationMs` where
 * the probe took the time itself; `cause` of success where there is more to say than that it connected; `silent` when
 * its whole time passed without a word; `answer` is what the server said, inert and bounded.
 */
export type Outcome =
  | { kind: "ok"; cause?: string; durationMs?: number; answer?: string }
  | { kind: "failed"; cause: string; durationMs?: number; silent?: boolean; answer?: string }
  | { kind: "local"; cause: string };

/** What came of a check, in words: why, and what the server said. */
export const checkText = ({ cause, answer }: { cause: string; answer?: string }): string =>
  answer === undefined || answer === "" ? cause : `${cause}: ${answer}`;

/** Gives a check up; `whenLate` tells what it means that its time is over, where more is known than that. */
export type GiveUp = (() => void) & { whenLate?: (timeoutMs: number) => Outcome };

const CAUSES: Record<string, string> = {
  ECONNREFUSED: "connection refused",
  ECONNRESET: "connection reset",
  EPIPE: "connection reset",
  EHOSTUNREACH: "host unreachable",
  ENETUNREACH: "network unreachable",
  ETIMEDOUT: "connect timed out",
};

const LOCAL_CAUSES: Record<string, string> = {
  EMFILE: "this process has no file descriptors left",
  ENFILE: "this machine has no file descriptors left",
  ENOBUFS: "this machine has no buffer space left",
  ENOMEM: "this machine has no memory left",
  EADDRNOTAVAIL: "this machine has no free source port or address",
  EAGAIN: "this machine has no free source port",
  EACCES: "this machine does not permit the connect",
  EPERM: "this machine does not permit the connect",
};

/** What speaks against a server on a Unix socket, and of a TCP server would be this machine's fault. */
const UNIX_CAUSES: Record<string, string> = {
  ENOENT: "no such socket",
  EACCES: "permission denied",
  EPERM: "permission denied",
  EAGAIN: "its queue of connections is full",
  EPROTOTYPE: "no stream socket",
};

/** What the error of a Unix socket means. */
export function unixOutcomeOf(error: NodeJS.ErrnoException): Outcome {
  const code = error.code ?? "";
  const cause = UNIX_CAUSES[code];
  return cause === undefined ? outcomeOf(error) : { kind: "failed", cause: `${cause} (${code})` };
}

/** What the error of a socket means. */
export function outcomeOf(error: NodeJS.ErrnoException): Outcome {
  const code = error.code ?? "";
  const local = LOCAL_CAUSES[code];
  if (local !== undefined) return { kind: "local", cause: `${local} (${code})` };
  const cause = CAUSES[code];
  return { kind: "failed", cause: cause === undefined ? excerpt(error.message) : `${cause} (${code})` };
}

/** Characters of an answer that are shown. */
const SHOWN = 120;

// Controls, separators, marks that reorder or hide text, what is no character, and halves of surrogate pairs.
const ACTIVE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\u{fffd}]/gu;

/** The beginning of what a stranger said, such that it can be shown anywhere: one line, inert, bounded. */
export function excerpt(said: string | Uint8Array): string {
  const text =
    typeof said === "string"
      ? said.slice(0, SHOWN * 2)
      : Buffer.from(said.buffer, said.byteOffset, Math.min(said.byteLength, SHOWN * 4)).toString("utf8");
  const inert = text
    .replace(/\r?\n$/, "")
    .replace(ACTIVE, (character) =>
      character === "\n" || character === "\r" || character === "\t" ? " " : "·",
    );
  const characters = [...inert];
  return characters.length > SHOWN ? `${characters.slice(0, SHOWN - 1).join("")}…` : inert;
}
