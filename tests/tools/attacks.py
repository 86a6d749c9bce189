"""Attacks on the built server, over sockets: python attacks.py PROGRAM MODEL [NAME...].

Each attack starts a server of its own and ends with an assertion about what must hold: whoever
leaves frees what was computed for them, nobody is locked out, nothing hangs or ends the process, no
web page drives the server, no stranger learns what others asked. Times are bounds that only a
broken server passes, so that a slow machine does not fail. Needs Python's standard library alone.
"""

import http.client
import http.server
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

PROGRAM, MODEL = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
# Seconds in which anything happens unless the server is broken.
PATIENCE = 90
STORY = "Write a very long story about the sea."
SAID = [{"role": "user", "content": STORY}]


def eventually(what, is_so, patience=PATIENCE):
    end = time.monotonic() + patience
    while not is_so():
        assert time.monotonic() < end, f"not within {patience} s: {what}"
        time.sleep(0.1)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A server of one model called `m`; its log goes to a file unless a pipe is given."""

    def __init__(self, *args, config="", model=MODEL, log=None, limit=None):
        self.home = tempfile.TemporaryDirectory()
        self.port = free_port()
        path = os.path.join(self.home.name, "config.toml")
        with open(path, "w") as file:
            file.write(config)
        self.log_path = os.path.join(self.home.name, "log")
        env = {k: v for k, v in os.environ.items() if not k.startswith(("KOLOSAL_", "HF_"))}
        command = [PROGRAM, "serve", "--config", path, "--port", str(self.port), *args]
        command += [f"m={model}"] if model else ["--no-default-model"]
        with open(self.log_path, "wb") as file:
            self.process = subprocess.Popen(
                command, env={**env, "HOME": self.home.name}, stdout=log or file, stderr=log or file,
                preexec_fn=limit,
            )
        eventually("it listens", self.listens)

    def listens(self):
        assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.text()}"
        try:
            return self.ask("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def text(self):
        with open(self.log_path, errors="replace") as file:
            return file.read()[-2000:]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.home.cleanup()

    def ask(self, method, path, body=None, headers=None, timeout=PATIENCE):
        """Status and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            body = None if body is None else body if isinstance(body, bytes) else json.dumps(body)
            connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def complete(self, headers=None, **fields):
        body = {"model": "m", "prompt": "The sea", "max_tokens": 4, **fields}
        return self.ask("POST", "/v1/completions", body, headers)

    def send(self, path, body):
        """Sends a request and returns its connection."""
        body = json.dumps(body).encode()
        connection = socket.create_connection(("127.0.0.1", self.port))
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return connection

    def engine(self):
        return json.loads(self.ask("GET", "/engines")[1])["engines"][0]

    def running(self):
        return self.engine()["jobs"]["running"] + self.engine()["jobs"]["waiting"]

    def loaded(self):
        eventually("it is loaded", lambda: self.engine()["status"] == "loaded")
        return self

    def end(self, patience=PATIENCE):
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=patience)


def leavers():
    """Clients that leave while they wait for a whole answer, in every dialect."""
    long = {"max_tokens": 3000, "ignore_eos": True}
    requests = {
        "/v1/chat/completions": {"model": "m", "messages": SAID, **long},
        "/v1/completions": {"model": "m", "prompt": STORY, "best_of": 8, **long},
        "/v1/messages": {"model": "m", "messages": SAID, "max_tokens": 3000},
        "/v1/responses": {"model": "m", "input": STORY, "max_output_tokens": 3000},
        "/v1/inference/chat/completions": {"model": "m", "messages": SAID, "maxNewTokens": 3000},
        "/api/generate": {"model": "m", "prompt": STORY, "stream": False, "options": {"num_predict": 3000}},
        "/api/chat": {"model": "m", "messages": SAID, "stream": False, "options": {"num_predict": 3000}},
        "/v1/embeddings": {"model": "m", "input": [f"{i} " * 200 for i in range(2000)]},
        "/v1/rerank": {"model": "m", "query": "sea", "documents": [f"{i} " * 200 for i in range(900)]},
        "/completions": {"model": "m", "prompt": "word " * 3500, "max_tokens": 5},
    }
    with Server("--n-ctx", "4096") as server:
        server.loaded()
        for path, body in requests.items():
            connection = server.send(path, body)
            eventually(f"{path} runs", lambda: server.running() > 0)
            connection.close()
            # Whole answers take minutes here; a sequence that is freed is gone at the next step.
            eventually(f"{path} is freed", lambda: server.running() == 0, 20)
        assert server.complete()[0] == 200


def idlers():
    """More idle connections than the process may have files open."""

    def few_files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

    with Server(limit=few_files) as server:
        server.loaded()
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
        assert server.complete()[0] == 200
        slow = socket.create_connection(("127.0.0.1", server.port))
        slow.sendall(b"GET / HTTP/1.1\r\nX-A: ")
        assert server.complete()[0] == 200
        for connection in [*idle, slow]:
            connection.close()
        assert server.end() == 0


def bodies():
    """Large bodies that stall take neither all memory nor the place of small ones."""
    with Server(config="[limits]\nmax_body_bytes_in_flight = 33554432\n") as server:
        server.loaded()
        stalled = []
        for _ in range(20):
            connection = socket.create_connection(("127.0.0.1", server.port))
            connection.settimeout(5)
            try:
                connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 15000000\r\n\r\n")
                connection.sendall(b'{"prompt": "' + b"a" * 12_000_000)
            except OSError:
                pass
            stalled.append(connection)
        assert server.complete()[0] == 200
        with open(f"/proc/{server.process.pid}/status") as status:
            peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) >> 10
        assert peak < 900, f"{peak} MiB"


def prompts():
    """Prompts of 15 MB are refused by their size."""
    with Server("--n-ctx", "2048") as server:
        server.loaded()

        def seconds():
            with open(f"/proc/{server.process.pid}/stat") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        before = seconds()
        for text in ("A" * 15_000_000, " " * 15_000_000, "word " * 3_000_000):
            message = {"role": "user", "content": text}
            status, answer = server.ask("POST", "/v1/chat/completions", {"model": "m", "messages": [message]})
            assert status == 400 and b"context" in answer, answer[:200]
        assert seconds() - before < 30, f"{seconds() - before} s of processor time"


def hog():
    """One client asks for all places, many times over; another is served meanwhile."""
    with Server("--n-ctx", "2048") as server:
        server.loaded()
        hogs = [server.send("/v1/completions", {"model": "m", "prompt": "x", "n": 100, "max_tokens": 1900, "ignore_eos": True})]
        hogs.append(server.send("/v1/completions", {"model": "m", "prompt": "y", "n": 100, "max_tokens": 1900, "ignore_eos": True}))
        eventually("all places are taken", lambda: server.engine()["jobs"]["waiting"] > 100)
        for _ in range(5):
            assert server.complete()[0] == 200
        assert server.engine()["jobs"]["waiting"] > 100, "the others had ended"
        for connection in hogs:
            connection.close()
        eventually("all is freed", lambda: server.running() == 0)


def pages():
    """Web pages of others reach and change nothing; frames are refused."""
    with Server() as server:
        server.loaded()
        add = {"engine_id": "evil", "model_path": MODEL}
        chat = {"model": "m", "messages": SAID, "max_tokens": 1}
        rebound = {"Host": f"evil.example:{server.port}", "Origin": f"http://evil.example:{server.port}"}
        for method, path, body, headers in [
            ("POST", "/engines", add, {"Origin": "https://evil.example", "Content-Type": "text/plain"}),
            ("POST", "/engines", add, {"Sec-Fetch-Site": "cross-site"}),
            ("POST", "/engines", add, {"Origin": "null"}),
            ("POST", "/v1/chat/completions", chat, {"Origin": "https://evil.example"}),
            ("POST", "/api/pull", {"model": "pypi:x"}, {"Origin": "https://evil.example"}),
            ("GET", "/engines", None, rebound),
            ("DELETE", "/engines/m", None, rebound),
            ("DELETE", "/api/delete", {"model": "m"}, rebound),
        ]:
            assert server.ask(method, path, body, headers)[0] == 403, (path, headers)
        assert server.ask("POST", "/engines", json.dumps(add).encode(), {"Content-Type": "text/plain"})[0] == 415
        assert server.engine()["engine_id"] == "m" and server.complete()[0] == 200
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("GET", "/docs")
        assert connection.getresponse().getheader("X-Frame-Options") == "DENY"


def doors():
    """Keys: for managing others than for use, and caches of their own. Files tell nothing."""
    config = '[auth]\napi_keys = ["alice", "bob"]\nadmin_keys = ["root"]\n'
    with Server(config=config) as server:
        bearer = lambda key: {"Authorization": f"Bearer {key}"}
        eventually("it is loaded", lambda: server.complete(bearer("alice"))[0] == 200)
        secret = "The patient John Smith, born 1971-03-05, was admitted with acute pancreatitis. " * 4

        def cached(key):
            status, answer = server.complete(bearer(key), prompt=secret)
            assert status == 200, answer
            return json.loads(answer)["usage"]["prompt_tokens_details"]["cached_tokens"]

        assert (cached("alice"), cached("alice") > 0, cached("bob")) == (0, True, 0)
        shadow = os.path.join(server.home.name, "secret.gguf")
        with open(shadow, "w") as file:
            file.write("root:$6$hash")
        add = {"engine_id": "s", "model_path": shadow}
        assert server.ask("POST", "/engines", add)[0] == 401
        assert server.ask("POST", "/engines", add, bearer("alice"))[0] == 403
        status, answer = server.ask("POST", "/engines", add, bearer("root"))
        assert status in (400, 422) and b"root" not in answer and b"$6$" not in answer, answer
        status, _ = server.ask("POST", "/engines", {"engine_id": "p", "model_path": "pypi:x"}, bearer("root"))
        assert status == 403, status


def shrinking():
    """A model file that is cut while it is loaded, and while it serves."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "m.gguf")
        with open(MODEL, "rb") as file:
            content = file.read()
        with Server(model=None) as server:
            for moment in (0, 0.05, 0.1, 0.2, 0.4):
                with open(path, "wb") as file:
                    file.write(content)
                cut = threading.Timer(moment, os.truncate, (path, 1 << 20))
                cut.start()
                status, answer = server.ask("POST", "/engines", {"engine_id": f"m{moment}", "model_path": path})
                cut.join()
                assert status in (201, 400, 422), answer
                if status == 201:
                    assert server.complete(model=f"m{moment}")[0] == 200
            assert server.end() == 0


def memory():
    """Little address space: refused with figures, or served; never an abort."""
    for size in (600 << 20, 1200 << 20):

        def little(size=size):
            resource.setrlimit(resource.RLIMIT_AS, (size, size))

        with Server("--n-ctx", "8192", limit=little) as server:
            eventually("it is loaded or refused", lambda: server.engine()["status"] in ("loaded", "failed", "error"))
            assert server.complete()[0] in (200, 503)
            assert server.end() == 0


def log():
    """A log that nobody reads, and then nobody has: requests and signals go on."""
    read, write = os.pipe()
    with Server(log=write) as server:
        os.close(write)
        server.loaded()
        for _ in range(800):
            server.ask("GET", "/livez")
        os.close(read)
        assert server.complete()[0] == 200
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert server.complete()[0] == 200
        assert server.end() == 0


class Never(http.server.BaseHTTPRequestHandler):
    """Begins to answer and does not go on."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000000000")
        self.end_headers()
        self.wfile.write(b"GGUF")
        self.wfile.flush()
        time.sleep(300)

    def log_message(self, *_):
        pass


def downloads():
    """Hundreds of models from a host that never ends: the loaded one answers, and SIGTERM ends all."""
    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Never)
    host.daemon_threads = True
    threading.Thread(target=host.serve_forever, daemon=True).start()
    with Server(config='[hub]\nallow_hosts = ["127.0.0.1"]\n[registry]\nmax_engines = 1000\n') as server:
        server.loaded()
        waiting = [
            server.send("/engines", {"engine_id": f"e{i}", "model_path": f"http://127.0.0.1:{host.server_port}/{i}.gguf"})
            for i in range(520)
        ]
        refused, _, _ = select.select(waiting, [], [], PATIENCE)
        assert refused, "none is refused"
        assert server.complete()[0] == 200
        assert server.end() == 0
    host.shutdown()


ATTACKS = [leavers, idlers, bodies, prompts, hog, pages, doors, shrinking, memory, log, downloads]


def main():
    chosen = [attack for attack in ATTACKS if not sys.argv[3:] or attack.__name__ in sys.argv[3:]]
    failures = 0
    for attack in chosen:
        began = time.monotonic()
        try:
            attack()
            outcome = "held"
        except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
            failures += 1
            outcome = f"FAILED: {error!r}"
        print(f"{attack.__name__:10} {outcome} ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"{len(chosen) - failures} of {len(chosen)} attacks held off")
    sys.exit(failures > 0)


main()
