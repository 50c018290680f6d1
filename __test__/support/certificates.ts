/** Certificates for tests' servers, signed by an authority of their own. */
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { folder } from "./peers.ts";

export interface Certified {
  /** PEM file of the authority. */
  ca: string;
  /** PEM files of a certificate for `name`. */
  certificate: string;
  key: string;
}

/** Needs openssl. */
export function certify(name: string): Certified {
  const home = folder("certificates");
  const at = (file: string) => join(home, file);
  const run = (...args: string[]) => execFileSync("openssl", args, { stdio: ["ignore", "ignore", "pipe"] });
  const ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  run(
    "req",
    "-x509",
    ...ec,
    "-keyout",
    at("ca.key"),
    "-out",
    at("ca.pem"),
    "-subj",
    "/CN=Test CA",
    "-days",
    "2",
  );
  run(
    "req",
    "-x509",
    ...ec,
    "-CA",
    at("ca.pem"),
    "-CAkey",
    at("ca.key"),
    "-keyout",
    at("server.key"),
    "-out",
    at("server.pem"),
    "-subj",
    `/CN=${name}`,
    "-addext",
    `subjectAltName=DNS:${name}`,
    "-days",
    "2",
  );
  return { ca: at("ca.pem"), certificate: at("server.pem"), key: at("server.key") };
}
