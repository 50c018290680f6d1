/** Exit codes; the help text is made from this table. */
export const EXIT = { ok: 0, failure: 1, usage: 2 } as const;

/** What each code means, for people. */
export const EXIT_MEANING: ReadonlyArray<readonly [number, string]> = [
  [EXIT.ok, "done; for run: stopped as asked, by one signal or two"],
  [
    EXIT.failure,
    "invalid configuration, start-up failure, unhealthy, errors found on the host, nothing reached or refused, or the data plane was lost",
  ],
  [EXIT.usage, "unknown command, unknown option, or options that contradict each other"],
];
