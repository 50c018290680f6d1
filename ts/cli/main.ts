#!/usr/bin/env node
/** The command line's entry: builds the command tree, runs one command, ends with its exit code. */
import { main } from "./program.ts";

await main(process.argv);
