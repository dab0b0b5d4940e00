// Sends images with tus-js-client, resumed after a cut and after a reload of the page, and shows
// what the receipt says of each.
"use strict";

const AT_ONCE = 4;
const RECEIPT_TRIES = 120;

const byId = (id) => document.getElementById(id);
const token = () => byId("token").value.trim();
const waiting = [];
let running = 0;

const hex = (buffer) =>
  Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");

function row(file) {
  const line = byId("list").insertRow();
  line.insertCell().textContent = file.name;
  const progress = document.createElement("progress");
  progress.max = Math.max(file.size, 1);
  progress.value = 0;
  progress.ariaLabel = `sent of ${file.name}`;
  line.insertCell().append(progress);
  const state = line.insertCell();
  state.ariaLive = "polite";
  return {
    sent: (bytes) => (progress.value = bytes),
    say: (text, bad = false) => {
      state.textContent = text;
      state.className = bad ? "bad" : "";
    },
  };
}

function words(error) {
  const body = error.originalResponse ? error.originalResponse.getBody() : "";
  try {
    return JSON.parse(body).error;
  } catch {
    return body || error.message;
  }
}

function send(file, sha256, shown) {
  return new Promise((resolve, reject) => {
    const upload = new tus.Upload(file, {
      endpoint: "/files/",
      retryDelays: [0, 500, 1000, 3000, 5000, 10000],
      metadata: { filename: file.name, filetype: file.type, sha256 },
      removeFingerprintOnSuccess: true,
      onBeforeRequest: (request) => request.setHeader("Authorization", `Bearer ${token()}`),
      onShouldRetry: (error) => {
        const status = error.originalResponse ? error.originalResponse.getStatus() : 0;
        return status === 0 || status === 409 || status === 423 || status >= 500;
      },
      onProgress: (bytes) => shown.sent(bytes),
      onError: (error) => reject(new Error(words(error))),
      onSuccess: () => resolve(upload.url),
    });
    upload.findPreviousUploads().then((found) => {
      if (found.length > 0) upload.resumeFromPreviousUpload(found[0]);
      upload.start();
    }, reject);
  });
}

async function receipt(url, shown) {
  const name = decodeURIComponent(new URL(url, location.href).pathname).split("/").pop();
  const path = `/receipts/${name.split("+")[0]}`;
  for (let tries = 0; tries < RECEIPT_TRIES; tries += 1) {
    const headers = { Authorization: `Bearer ${token()}` };
    // Who is away for a moment is asked again, and so is who wants another token: it may be given.
    const answer = await fetch(path, { headers }).catch(() => null);
    if (answer && answer.ok) return answer.json();
    if (answer && answer.status === 401) {
      shown.say(`sent; for its receipt give another token: ${(await answer.json()).error}`, true);
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  throw new Error("sent, but no receipt yet");
}

async function take(file) {
  const shown = row(file);
  try {
    shown.say("reading");
    const sha256 = hex(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
    shown.say("sending");
    const url = await send(file, sha256, shown);
    shown.sent(file.size || 1);
    shown.say("being verified");
    const [image] = (await receipt(url, shown)).images;
    const bad = image.state !== "received";
    shown.say(bad ? `${image.state}: ${image.reason} (${image.detail})` : image.state, bad);
  } catch (error) {
    shown.say(error.message, true);
  }
}

async function next() {
  if (running >= AT_ONCE || waiting.length === 0) return;
  running += 1;
  await take(waiting.shift());
  running -= 1;
  next();
}

function add(files) {
  if (!token()) {
    byId("status").textContent = "A token is needed first.";
    byId("token").focus();
    return;
  }
  byId("status").textContent = "";
  waiting.push(...files);
  for (let one = 0; one < AT_ONCE; one += 1) next();
}

byId("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";
});
const drop = byId("drop");
for (const kind of ["dragover", "dragleave", "drop"]) {
  // On the whole page: a file dropped beside the area would be opened in its place.
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") add(event.dataTransfer.files);
  });
}
