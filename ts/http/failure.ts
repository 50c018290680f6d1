/** Answers that tell of an error: `{error, code, problems?}`, whoever gives them. */
import type { Problem } from "../config/problem.ts";
import { ConveyError, type ConveyErrorCode } from "../native/index.ts";

/** Code of an answer by its status; errors of the balancer have their own. */
const CODES = {
  400: "INVALID",
  401: "UNAUTHORIZED",
  403: "FORBIDDEN",
  404: "NOT_FOUND",
  405: "METHOD_NOT_ALLOWED",
  408: "TIMEOUT",
  409: "CONFLICT",
  411: "LENGTH_REQUIRED",
  413: "TOO_LARGE",
  415: "UNSUPPORTED_MEDIA_TYPE",
  421: "MISDIRECTED",
  422: "CONFIG_INVALID",
  431: "HEADERS_TOO_LARGE",
  500: "INTERNAL",
  503: "UNAVAILABLE",
} as const;

export type FailureStatus = keyof typeof CODES;
export type FailureCode = (typeof CODES)[FailureStatus] | "TOO_MANY" | ConveyErrorCode;
type Details = { code?: FailureCode; problems?: readonly Problem[]; headers?: Record<string, string> };

/** The body of every error. */
export function failureBody(
  status: FailureStatus,
  error: string,
  { code = CODES[status], problems }: Details = {},
) {
  return { error, code, ...(problems === undefined ? {} : { problems }) };
}

/** The answer that tells of an error. */
export function fail(status: FailureStatus, error: string, details: Details = {}): Response {
  return Response.json(failureBody(status, error, details), { status, headers: details.headers ?? {} });
}

/** Thrown by a handler to answer with an error. */
export class Failure extends Error {
  readonly #status: FailureStatus;
  readonly #details: Details;

  constructor(status: FailureStatus, message: string, details: Details = {}) {
    super(message);
    this.#status = status;
    this.#details = details;
  }

  toResponse(): Response {
    return fail(this.#status, this.message, this.#details);
  }
}

const STATUS: Partial<Record<ConveyErrorCode, FailureStatus>> = {
  CONFIG_INVALID: 422,
  BIND_FAILED: 422,
  PERMISSION_DENIED: 422,
  ENGINE_UNSUPPORTED: 422,
  NOT_FOUND: 404,
  CLOSED: 503,
};

/** The answer to what the balancer refused; what is none of its errors is thrown on. */
export function refused(error: unknown, statusOf?: (code: ConveyErrorCode) => FailureStatus): Failure {
  if (!(error instanceof ConveyError)) throw error;
  const { code, message, problems } = error;
  const status = statusOf?.(code) ?? STATUS[code] ?? 500;
  // Where it is a configuration that was refused there is a list, if only an empty one.
  const list = status === 422 ? (problems ?? []) : problems;
  return new Failure(status, message, { code, ...(list === undefined ? {} : { problems: list }) });
}
