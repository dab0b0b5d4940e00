// Of the package only what the page loads.
import { cpSync, mkdirSync } from "node:fs";

mkdirSync("public");
for (const name of ["swagger-ui-bundle.js", "swagger-ui.css"]) {
  cpSync(`node_modules/swagger-ui-dist/${name}`, `public/${name}`);
}
