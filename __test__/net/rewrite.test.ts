/** Direct server return by rewriting the destination address. */
import { suite } from "./suite/index.ts";

suite("rewrite");
