"""A headless Chromium that tests drive through its DevTools pipe: no package, no port, no network."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe")


class Page:
    """One tab of a browser of its own: goes to a page, runs JavaScript there.

    Attributes:
        requests: what was asked for since the last `open`, as URLs.
    """

    def __init__(self, profile, seconds=60):
        near, self.write = os.pipe()
        self.read, far = os.pipe()
        to_read, to_write = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (near, far))  # off the numbers 3 and 4
        words = [BINARY, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        script = f'exec "$@" 3<&{to_read} 4>&{to_write} {to_read}<&- {to_write}>&-'  # the pipe's own numbers
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.process = subprocess.Popen(["bash", "-c", script, "-", *words], pass_fds=(to_read, to_write), **quiet)
        for end in (near, far, to_read, to_write):
            os.close(end)
        self.seconds, self.count, self.buffer, self.requests, self.session = seconds, 0, b"", [], None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Page.enable")
        self.ask("Network.enable")

    def close(self):
        """Ends the browser."""
        with contextlib.suppress(OSError):
            os.write(self.write, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        os.close(self.read)
        os.close(self.write)

    def _message(self, until):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read], [], [], max(0, until - time.monotonic()))
            chunk = os.read(self.read, 1 << 20) if ready else b""
            if not chunk:
                raise TimeoutError(f"chromium was silent for {self.seconds} s")
            self.buffer += chunk
        line, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(line)
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        return message

    def ask(self, method, **params):
        """Sends a command of the protocol; gives its result."""
        self.count += 1
        command = {"id": self.count, "method": method, "params": params}
        command |= {"sessionId": self.session} if self.session else {}
        os.write(self.write, json.dumps(command).encode() + b"\0")
        until = time.monotonic() + self.seconds
        while (message := self._message(until)).get("id") != self.count:
            pass
        assert "error" not in message, message
        return message["result"]

    def run(self, script):
        """Evaluates an expression in the page, and waits where it is a promise."""
        asked = dict(expression=script, awaitPromise=True, returnByValue=True)
        result = self.ask("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, url, width, height=900):
        """Goes to a page in a window of this size, and waits until it has loaded."""
        self.requests.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Page.navigate", url=url)
        self.wait(f"document.readyState == 'complete' && location.href.startsWith({json.dumps(url.split('#')[0])})")

    def wait(self, condition, seconds=30):
        """Waits until an expression is true; gives its value."""
        until = time.monotonic() + seconds
        while not (value := self.run(condition)):
            assert time.monotonic() < until, f"not in {seconds} s: {condition}"
            time.sleep(0.05)
        return value
