#!/usr/bin/env python3
"""A worker for tasks of a flyball daemon, in Python, with the standard library only.

It leases tasks of the kinds that it knows, gives signs of life while it works on them, and says how they went. Start a daemon, this worker, and
submit:

    flyball serve
    python3 examples/worker.py
    flyball submit --wait --kind count_words --json-payload '{"text": "to be or not to be"}'

To make it yours, put functions into HANDLERS. A function is given the task and answers what came of it, as JSON will have it. It raises Retry if
another attempt may help, and whatever else it raises fails the task for good. Everything else here is what any worker in any language does:

- a lease is a promise for a time: a thread extends it while the work goes on (`heartbeat`), and learns there whether the task was cancelled;
- status 409 says that the lease is somebody else's by now: the work is left alone, and nothing of it is reported;
- a daemon that is away or full is asked again, after waits that grow and differ from worker to worker; `Retry-After` is respected;
- on TERM and INT the task in hand is given back (`release`), which costs it no attempt, so that another worker begins at once;
- a task may be run twice, when a worker or a daemon dies in the middle of it: handlers do nothing twice that must not be, or keep a checkpoint.
"""

import argparse
import http.client
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

# How long to wait for a task before asking again, and for any answer, seconds.
WAIT_S = 20
ANSWER_S = 30
# Waits between tries: the first is at most this long, the longest that; seconds.
BACKOFF_S = 0.2
BACKOFF_CAP_S = 30.0


class Retry(Exception):
    """Raised by a handler: this attempt failed, another may help, not before so many seconds."""

    def __init__(self, why, after_s=None):
        super().__init__(why)
        self.after_s = after_s


class Refused(Exception):
    """The daemon said no."""

    def __init__(self, status, detail, retry_after_s):
        super().__init__(f"{detail} ({status})")
        self.status = status
        self.retry_after_s = retry_after_s


class Cancelled(Exception):
    """The task in hand is to stop."""


class Interrupted(Exception):
    """A signal asked this worker to end."""


# --- what the tasks do ---------------------------------------------------------------------------------------------------------------


def count_words(task):
    """Counts words: {"text": "…", "pause_s": 0.0}. It keeps a checkpoint, so that another attempt goes on where this one ended."""
    words = task.payload["text"].split()
    done = task.checkpoint or {"next": 0, "counts": {}}
    while done["next"] < len(words):
        task.stop_if_asked()
        word = words[done["next"]].lower()
        done["counts"][word] = done["counts"].get(word, 0) + 1
        done["next"] += 1
        task.report(100 * done["next"] / len(words), f"{done['next']} of {len(words)} words", done)
        task.sleep(task.payload.get("pause_s", 0))
    return done["counts"]


def flaky(task):
    """Fails until the attempt that the payload names: {"succeeds_at": 3}."""
    if task.attempt < task.payload["succeeds_at"]:
        raise Retry(f"attempt {task.attempt} fails", after_s=0)
    return {"attempts": task.attempt}


HANDLERS = {"count_words": count_words, "flaky": flaky}


# --- how they are got, kept and given back -------------------------------------------------------------------------------------------


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Daemon:
    """Calls of the API, a connection each."""

    def __init__(self, server, token):
        self.server = server
        self.token = token

    def connection(self, timeout):
        if self.server.startswith("unix:"):
            return UnixConnection(self.server.removeprefix("unix:"), timeout)
        url = urlsplit(self.server)
        return http.client.HTTPConnection(url.hostname, url.port, timeout=timeout)

    def post(self, path, body, timeout=ANSWER_S):
        """Answers the document; raises Refused, or OSError where nobody answers."""
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        connection = self.connection(timeout)
        try:
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        except http.client.HTTPException as error:
            raise OSError(f"the answer broke off: {error!r}") from error
        finally:
            connection.close()
        document = json.loads(text) if text else None
        if answer.status < 400:
            return document
        after = answer.headers.get("Retry-After")
        detail = document.get("detail") if isinstance(document, dict) else None
        raise Refused(answer.status, detail or answer.reason, float(after) if after else None)


class Backoff:
    """Waits that double up to a cap, each a random part of that: workers that lost the same daemon do not come back in step."""

    def __init__(self):
        self.tries = 0

    def seconds(self, at_least=None):
        most = min(BACKOFF_CAP_S, BACKOFF_S * 2 ** min(self.tries, 16))
        self.tries += 1
        return max(random.uniform(0, most), at_least or 0)


def may_pass(error):
    """Whether the same call may well succeed later: nobody answers, or the daemon is full, ends or begins."""
    return not isinstance(error, Refused) or error.status in (408, 429, 500, 502, 503, 507)


class Task:
    """A task that is ours while its lease lasts."""

    def __init__(self, daemon, lease, lease_s):
        self.daemon = daemon
        self.id = lease["id"]
        self.kind = lease["kind"]
        self.payload = lease["payload"]
        self.attempt = lease["attempt"]
        self.checkpoint = lease.get("checkpoint")
        self.lease_s = lease_s
        self.lost = False
        self._token = lease["token"]
        self._news = {}
        self._lock = threading.Lock()
        self._asked_to_stop = threading.Event()
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, name=f"heartbeat-{self.id}", daemon=True)
        self._beats.start()

    def report(self, percent=None, message=None, checkpoint=None):
        """Is sent with the next sign of life: how far the work is, a line of text, and what the next attempt is to find."""
        news = {"progress_percent": percent, "message": message, "checkpoint": checkpoint}
        with self._lock:
            self._news.update({name: value for name, value in news.items() if value is not None})

    def stop_if_asked(self):
        """Ends the handler where the task was cancelled, or is not ours any more."""
        if self._asked_to_stop.is_set():
            raise Cancelled("cancelled")

    def sleep(self, seconds):
        if self._asked_to_stop.wait(seconds):
            self.stop_if_asked()

    def _beat(self):
        heard = time.monotonic()
        backoff = Backoff()
        wait = self.lease_s / 3
        while not self._over.wait(wait):
            wait = self.lease_s / 3
            try:
                if self.sign_of_life()["cancel_requested"]:
                    self._asked_to_stop.set()
                heard, backoff = time.monotonic(), Backoff()
            except (OSError, Refused) as error:
                if may_pass(error) and time.monotonic() - heard < self.lease_s:
                    wait = min(backoff.seconds(), wait)
                    continue
                say(f"task {self.id} is not ours any more: {error}")
                self.lost = True
                self._asked_to_stop.set()
                return

    def sign_of_life(self):
        with self._lock:
            news, self._news = self._news, {}
        try:
            return self.call("heartbeat", news)
        except (OSError, Refused):
            with self._lock:
                self._news = {**news, **self._news}
            raise

    def call(self, action, body):
        return self.daemon.post(f"/v1/tasks/{self.id}/{action}", {"token": self._token, **body})

    def end(self, action, body):
        """Says how it ended, again and again while nobody answers: a daemon that is restarted honours the lease."""
        self._over.set()
        self._beats.join()
        if self.lost:
            return
        until = time.monotonic() + self.lease_s
        backoff = Backoff()
        while True:
            try:
                self.call(action, body)
                return say(f"task {self.id}: {action}")
            except (OSError, Refused) as error:
                if action == "complete" and getattr(error, "status", None) in (400, 413, 422):
                    # Too long, say: trying again would not help.
                    action, body = "fail", {"error": f"the result was refused: {error}", "retryable": False}
                    continue
                wait = backoff.seconds(getattr(error, "retry_after_s", None))
                if not may_pass(error) or time.monotonic() + wait > until:
                    # 409: the lease ran out and the task is somebody else's, or an answer was lost and it is ended already.
                    return say(f"task {self.id}: {action} was not taken: {error}")
                time.sleep(wait)


class Worker:
    def __init__(self, daemon, name, lease_s, once):
        self.daemon = daemon
        self.name = name
        self.lease_s = lease_s
        self.once = once
        self.ending = False
        # Whether a signal may break off what is being done: the wait for a task and the work, never the report of its end.
        self.interruptible = False

    def on_signal(self, number, _frame):
        self.ending = True
        say(f"signal {signal.Signals(number).name}: ending")
        if self.interruptible:
            self.interruptible = False
            raise Interrupted

    def run(self):
        backoff = Backoff()
        while not self.ending:
            try:
                leases = self.guarded(self.lease)
                backoff = Backoff()
            except Interrupted:
                return
            except (OSError, Refused) as error:
                if not may_pass(error):
                    sys.exit(f"worker: {error}")
                wait = backoff.seconds(getattr(error, "retry_after_s", None))
                say(f"{error}; again in {wait:.1f} s")
                try:
                    self.guarded(lambda: time.sleep(wait))
                except Interrupted:
                    return
                continue
            for lease in leases:
                self.work(Task(self.daemon, lease, self.lease_s))
            if self.once and not leases:
                return

    def guarded(self, action):
        """Does what a signal may break off."""
        try:
            self.interruptible = True
            if self.ending:
                raise Interrupted
            return action()
        finally:
            self.interruptible = False

    def lease(self):
        wait_s = 0 if self.once else WAIT_S
        body = {
            "worker": self.name,
            "kinds": sorted(HANDLERS),
            "max": 1,
            "lease_ms": int(self.lease_s * 1000),
            "wait_ms": wait_s * 1000,
        }
        return self.daemon.post("/v1/tasks/lease", body, timeout=wait_s + ANSWER_S)["tasks"]

    def work(self, task):
        say(f"task {task.id}: {task.kind}, attempt {task.attempt}")
        try:
            result = self.guarded(lambda: HANDLERS[task.kind](task))
            json.dumps(result)
        except Interrupted:
            # What was reported last is for the next attempt.
            try:
                task.sign_of_life()
            except (OSError, Refused):
                pass
            return task.end("release", {})
        except Cancelled:
            return task.end("fail", {"error": "stopped, as it was cancelled", "retryable": False})
        except Retry as error:
            after = {} if error.after_s is None else {"retry_after_ms": int(error.after_s * 1000)}
            return task.end("fail", {"error": str(error), "retryable": True, **after})
        except Exception as error:  # A handler may fail with anything; the daemon keeps the words.
            return task.end("fail", {"error": f"{type(error).__name__}: {error}", "retryable": False})
        task.end("complete", {"result": result})


def say(text):
    print(f"worker: {text}", file=sys.stderr, flush=True)


def state_folder():
    """Where a daemon of this user keeps its socket."""
    named = os.environ.get("FLYBALL_STATE_DIR")
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(named) if named else Path(state) / "flyball"


def main():
    parser = argparse.ArgumentParser(description="Works tasks of a flyball daemon.")
    parser.add_argument("--server", help="http://HOST:PORT or unix:PATH (default: the socket in the state folder)")
    parser.add_argument("--token-file", help="token for a daemon over TCP (default: admin.token in the state folder)")
    parser.add_argument("--name", default=f"{socket.gethostname()}-{os.getpid()}", help="for people to read")
    parser.add_argument("--lease", type=float, default=30.0, metavar="SECONDS", help="how long a lease lasts without a sign of life")
    parser.add_argument("--once", action="store_true", help="end when there is no task")
    options = parser.parse_args()
    server = options.server or f"unix:{state_folder() / 'flyball.sock'}"
    token = None
    if not server.startswith("unix:"):
        token = Path(options.token_file or state_folder() / "admin.token").read_text().strip()
    worker = Worker(Daemon(server, token), options.name, options.lease, options.once)
    signal.signal(signal.SIGTERM, worker.on_signal)
    signal.signal(signal.SIGINT, worker.on_signal)
    say(f"works {', '.join(sorted(HANDLERS))} of {server}")
    worker.run()


if __name__ == "__main__":
    main()
