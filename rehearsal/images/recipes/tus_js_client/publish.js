// Of the package only what a browser loads.
import { cpSync, mkdirSync } from "node:fs";

mkdirSync("public");
cpSync("node_modules/tus-js-client/dist/tus.min.js", "public/tus.min.js");
