/** The part of a pino logger that is used; any logger of this shape will do. */

type Write = (fields: object, message: string) => void;

export type Logger = { debug: Write; info: Write; warn: Write; error: Write };

const ignore: Write = () => undefined;

/** A library says nothing unless asked. */
export const SILENT: Logger = { debug: ignore, info: ignore, warn: ignore, error: ignore };
