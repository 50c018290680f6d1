/** Direct server return by MAC address alone. */
import { suite } from "./suite/index.ts";

suite("l2");
