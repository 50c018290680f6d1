/** Every method with servers on an interface of their own. */
import { behindTwoInterfaces } from "./suite/index.ts";

behindTwoInterfaces("passthrough");
behindTwoInterfaces("rewrite");
behindTwoInterfaces("l2");
