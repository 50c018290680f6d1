/** Runs before each test file: its tests find only the programs that they declare. */
import { afterAll, beforeEach } from "vitest";
import { narrowPath } from "./requirements.ts";

const path = narrowPath();
beforeEach(path.beforeTest);
afterAll(path.end);
