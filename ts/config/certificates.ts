/** Files of trusted certificates. */
import { createSecureContext, type SecureContext } from "node:tls";
import { readSmallFile } from "./read.ts";
import { isTable } from "./view.ts";

/** All certificates that browsers trust have a quarter of this. */
const MOST_BYTES = 1024 * 1024;

export type Certificates = { ok: true; context: SecureContext } | { ok: false; message: string };

/** Reads a PEM file with at least one certificate. */
export async function readCertificates(file: string): Promise<Certificates> {
  try {
    const { bytes, regular } = await readSmallFile(file, MOST_BYTES);
    if (!regular) return { ok: false, message: "is not a regular file" };
    if (bytes.length > MOST_BYTES) return { ok: false, message: `is larger than ${MOST_BYTES / 1024} KiB` };
    if (!bytes.includes("-----BEGIN CERTIFICATE-----"))
      return { ok: false, message: "has no certificate in PEM" };
    return { ok: true, context: createSecureContext({ ca: bytes }) };
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return { ok: false, message: "names no file" };
    return {
      ok: false,
      message: `cannot be used: ${code?.startsWith("ERR_OSSL") ? "a certificate in it is broken" : message}`,
    };
  }
}

/** The files that checks of a configuration, valid or not, are to trust and cannot, with what is wrong. */
export async function unusableCertificates(input: unknown): Promise<Map<string, string>> {
  const backends = isTable(input) && isTable(input.backends) ? Object.values(input.backends) : [];
  const files = new Set<string>();
  for (const backend of backends) {
    const check = isTable(backend) ? backend.health_check : undefined;
    if (isTable(check) && check.tls === true && typeof check.tls_ca === "string" && check.tls_ca !== "") {
      files.add(check.tls_ca);
    }
  }
  const unusable = new Map<string, string>();
  for (const file of files) {
    const read = await readCertificates(file);
    if (!read.ok) unusable.set(file, read.message);
  }
  return unusable;
}
