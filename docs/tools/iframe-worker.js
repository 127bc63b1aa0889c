// Search runs in a worker, which browsers refuse to pages that are opened from the disk: there a hidden frame is the worker.
// The site's search asks for a class of this name.
window.IFrameWorker = class extends EventTarget {
  constructor(url) {
    super();
    const frame = document.createElement("iframe");
    frame.hidden = true;
    document.body.append(frame);
    const inside = frame.contentWindow;
    inside.document.open();
    inside.document.write("<!doctype html><body></body>");
    inside.document.close();
    const load = (source) => new Promise((loaded, failed) => {
      const script = inside.document.createElement("script");
      script.src = source;
      script.onload = loaded;
      script.onerror = () => failed(new Error(`cannot load ${source}`));
      inside.document.body.append(script);
    });
    inside.importScripts = (...sources) => sources.reduce((before, next) => before.then(() => load(next)), Promise.resolve());
    inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", {data}));
    this.frame = frame;
    this.ready = inside.importScripts(url);
  }

  postMessage(data) {
    this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", {data})));
  }

  terminate() {
    this.frame.remove();
  }
};
if (location.protocol === "file:") window.Worker = window.IFrameWorker;
