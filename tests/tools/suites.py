"""Clients and suites of other houses against the server: python suites.py [NAME...].

Without names all of them run; `--install` only installs. Each has what it needs installed below target/suites by pip and npm, and
gets a server that is started here and stopped afterwards. KOLOSAL_TEST_MODEL is SmolLM2 or another
instruction model as a GGUF file; KOLOSAL_TEST_PROGRAM is the server, target/debug/kolosal if it is not set.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
WORK = TARGET / "suites"
PROGRAM = os.environ.get("KOLOSAL_TEST_PROGRAM", str(TARGET / "debug" / "kolosal"))
# Seconds that one suite may take; reached by broken programs only.
PATIENCE = 900

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def run(command, **options):
    return subprocess.run([str(part) for part in command], check=True, **options)


def python(name):
    """A Python of its own with the packages of a requirements file; SDKs of others disagree on versions."""
    wanted = (HERE / f"requirements-{name}.txt").read_text()
    home = WORK / name
    stamp = home / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        run([sys.executable, "-m", "venv", "--clear", home])
        requirements = HERE / f"requirements-{name}.txt"
        run([home / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements])
        stamp.write_text(wanted)
    return home / "bin" / "python"


def node():
    """The folder of the Node scripts with their packages beside them."""
    home = WORK / "node"
    home.mkdir(parents=True, exist_ok=True)
    wanted = (HERE / "node" / "package.json").read_text()
    stamp = home / "installed.json"
    for script in (HERE / "node").iterdir():
        shutil.copy(script, home)
    if not stamp.exists() or stamp.read_text() != wanted:
        run(["npm", "install", "--silent", "--no-package-lock", "--no-fund", "--no-audit"], cwd=home)
        stamp.write_text(wanted)
    return home


class Server:
    """A server that runs until the block ends."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __enter__(self):
        WORK.mkdir(parents=True, exist_ok=True)
        self.log = WORK / "server.log"
        command = [PROGRAM, "serve", "--port", "0", "--offline", *self.arguments]
        home = {name: str(WORK / "home") for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")}
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=self.log.open("wb"), env=os.environ | home
        )
        end = time.monotonic() + 120
        while not (found := re.search(r"listening on (http://\S+)", self.log.read_text())):
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the server does not start:\n{self.log.read_text()}")
            time.sleep(0.1)
        self.url = found[1]
        return self

    def __exit__(self, *failure):
        if self.process.poll() is not None:
            raise SystemExit(f"the server ended:\n{self.log.read_text()[-3000:]}")
        self.process.terminate()
        self.process.wait(60)


def model():
    path = os.environ.get("KOLOSAL_TEST_MODEL")
    if not path:
        raise SystemExit("KOLOSAL_TEST_MODEL is not set: which model file shall the suites run on?")
    return path


def tiny_model():
    path = WORK / "tiny.gguf"
    run([python("clients"), HERE / "tiny_model.py", model(), path])
    return path


def clients(url, command, **options):
    """Runs a suite against a real model and returns its last line."""
    environment = os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **options.pop("env", {})}
    with (WORK / "suite.log").open("w") as log:
        done = subprocess.run(
            [str(part) for part in command], stdout=log, stderr=subprocess.STDOUT, env=environment,
            timeout=PATIENCE, **options,
        )
    text = (WORK / "suite.log").read_text()
    if done.returncode:
        raise SystemExit(f"{text[-8000:]}\nFAILED: {' '.join(map(str, command))}")
    lines = text.strip().splitlines()
    checked = sum(line.startswith("ok ") for line in lines)
    return f"{lines[-1]} ({checked} checks)" if checked else lines[-1]


def script(name, prefix=""):
    def suite(url):
        return clients(url, [python("clients"), HERE / name, url + prefix, "model"])

    return suite


def node_script(name, prefix=""):
    def suite(url):
        return clients(url, ["node", node() / name, url + prefix, "model"])

    return suite


def litellm(url):
    return clients(url, [python("litellm"), HERE / "litellm_client.py", url + "/v1", "model"])


def langchain(url):
    command = [python("clients"), "-m", "pytest", "-c", HERE / "pytest.ini", "-p", "no:cacheprovider"]
    command += ["-k", "not TestByCalls or structured_output", "-n", "4", "-q", "-rfEX", HERE / "test_langchain.py"]
    return clients(url, command, env={"KOLOSAL_URL": url, "KOLOSAL_MODEL": "model"})


def schemathesis(url, *options):
    command = [python("clients").parent / "schemathesis", "run", f"{url}/openapi.json", "--checks", CHECKS]
    command += ["--generation-allow-x00", "false", "--continue-on-failure", "--no-color"]
    # An unoptimised server on a busy machine may need long for a full context of unlikely tokens.
    command += ["--request-timeout", "60"]
    # By hand: more examples, and the aliases of paths as well.
    examples = os.environ.get("KOLOSAL_TEST_EXAMPLES")
    command += ["--max-examples", examples] if examples else ["--max-examples", "20", "--exclude-tag", "Aliases"]
    command += options
    clients(url, command, cwd=WORK)
    # The last line tells of warnings only; what was tried stands above it.
    return re.search(r"^ *(\d+ generated.*)$", (WORK / "suite.log").read_text(), re.MULTILINE)[1]


# Suites that talk to a real model.
WITH_MODEL = {
    "openai": script("openai_client.py", "/v1"),
    "anthropic": script("anthropic_client.py"),
    "ollama": script("ollama_client.py"),
    "rerank": script("rerank_client.py"),
    "litellm": litellm,
    "openai-node": node_script("openai.mjs", "/v1"),
    "anthropic-node": node_script("anthropic.mjs"),
    "ai-node": node_script("ai.mjs", "/v1"),
    "langchain": langchain,
}


def with_model(names):
    with Server(f"model={model()}", "--n-ctx", "2048", "--n-parallel", "8") as server:
        for name in names:
            begin = time.monotonic()
            line = WITH_MODEL[name](server.url)
            print(f"{name}: {line} [{time.monotonic() - begin:.0f} s]", flush=True)


def against_the_document(name):
    """Requests that are made from the OpenAPI document, right and wrong ones."""
    if name == "schemathesis":
        # `my-model` is what the document's examples ask for. Nothing may remove it midway.
        arguments = [f"my-model={tiny_model()}", "--n-ctx", "256", "--n-parallel", "4"]
        options = ["--exclude-method", "DELETE"]
    else:
        arguments, options = ["--no-default-model"], []
    with Server(*arguments) as server:
        print(f"{name}: {schemathesis(server.url, *options)}", flush=True)


def main():
    # Ends the servers as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if sys.argv[1:] == ["--install"]:
        python("clients"), python("litellm"), node()
        return
    others = ["schemathesis", "schemathesis-empty"]
    names = sys.argv[1:] or [*WITH_MODEL, *others]
    unknown = set(names) - set(WITH_MODEL) - set(others)
    if unknown:
        raise SystemExit(f"no such suite: {', '.join(unknown)}; there are {', '.join([*WITH_MODEL, *others])}")
    real = [name for name in names if name in WITH_MODEL]
    if real:
        with_model(real)
    for name in names:
        if name in others:
            against_the_document(name)


main()
