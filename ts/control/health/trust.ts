/** Certificates that checks trust: read once in a while, so that a file that is replaced is taken up without a reload. */
import { createSecureContext, type SecureContext } from "node:tls";
import { type Certificates, readCertificates } from "../../config/certificates.ts";

/** How long what was read from a file counts. */
const FRESH_MS = 10_000;

type Known = { at: number; read: Promise<Certificates> };

const known = new Map<string, Known>();
let builtIn: SecureContext | undefined;

/** The context for checks that trust what Node.js does. */
export const builtInTrust = (): SecureContext => {
  builtIn ??= createSecureContext();
  return builtIn;
};

/** The context for checks that trust the certificates of `file`. */
export function trustIn(file: string): Promise<Certificates> {
  const now = performance.now();
  const old = known.get(file);
  if (old !== undefined && now - old.at < FRESH_MS) return old.read;
  // Files of configurations that are gone.
  for (const [name, { at }] of known) if (now - at > 10 * FRESH_MS) known.delete(name);
  const read = readCertificates(file);
  known.set(file, { at: now, read });
  return read;
}
