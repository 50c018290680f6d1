/** Passthrough: packets are rewritten both ways. */
import { suite } from "./suite/index.ts";

suite("passthrough");
