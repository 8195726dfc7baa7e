"""What connections say: OpenAI, Azure by key and by Entra, gateways, proxies, private CAs. Secrets show nowhere."""

from __future__ import annotations

import datetime as dt
import http.client
import http.server
import ipaddress
import logging
import re
import ssl
import sys
import threading
from base64 import b64encode
from types import ModuleType, SimpleNamespace
from urllib.parse import urlsplit

import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airflow_openai_batch.emulator.server import running
from airflow_openai_batch.exceptions import (
    AuthenticationError,
    ConfigurationError,
    NotFoundError,
    NoTokenError,
    OpenAIBatchError,
    UnreachableError,
)
from airflow_openai_batch.hooks.openai_batch import OpenAIBatchHook

AZURE_KEY = "0123456789abcdef0123456789abcdef"
TOKEN = "eyJhbGciOi.J9.entra"
RESOURCE = "https://lake.openai.azure.com"
V1 = f"{RESOURCE}/openai/v1/"


@pytest.fixture
def hooked(connect):
    """Make a connection of these fields, and its hook."""
    made = []

    def hooked(emulator=None, *, extra=None, **fields):
        connect(emulator, **fields, extra={"max_retries": 0, **(extra or {})})
        made.append(OpenAIBatchHook())
        return made[-1]

    yield hooked
    for hook in made:
        hook.close()


@pytest.fixture(scope="module")
def azure():
    with running(mode="azure", key=[AZURE_KEY], token=[TOKEN]) as emulator:
        yield emulator


async def looks_async(hook):
    client = await hook.aget_client()
    try:
        return [batch async for batch in client.list_batches()]
    finally:
        await client.close()


# What is read of a connection.


@pytest.mark.parametrize(
    ("fields", "azure", "version", "base_url"),
    [
        ({"extra": {"azure_endpoint": RESOURCE}}, "v1", None, V1),
        ({"extra": {"azure_endpoint": f"{RESOURCE}/"}}, "v1", None, V1),
        ({"extra": {"azure_endpoint": "lake.openai.azure.com"}}, "v1", None, V1),
        ({"host": RESOURCE}, "v1", None, V1),
        ({"host": "lake.openai.azure.com"}, "v1", None, V1),
        ({"host": f"{RESOURCE}/openai/v1"}, "v1", None, V1),
        ({"host": f"{RESOURCE}/openai/v1/"}, "v1", None, V1),
        ({"host": f"{RESOURCE}/openai"}, "v1", None, V1),
        ({"host": V1, "extra": {"api_version": "preview"}}, "v1", None, V1),
        ({"host": "https://lake.cognitiveservices.azure.com"}, "v1", None, None),
        ({"host": "https://lake.services.ai.azure.com"}, "v1", None, None),
        ({"host": "https://lake.openai.azure.us"}, "v1", None, None),
        ({"host": RESOURCE, "extra": {"api_version": "2024-10-21"}}, "classic", "2024-10-21", f"{RESOURCE}/openai"),
        (
            {"extra": {"azure_endpoint": RESOURCE, "api_version": "2025-04-01-preview"}},
            "classic",
            "2025-04-01-preview",
            f"{RESOURCE}/openai",
        ),
        (
            {"extra": {"openai_client_kwargs": {"azure_endpoint": RESOURCE, "api_version": "2024-10-21"}}},
            "classic",
            "2024-10-21",
            f"{RESOURCE}/openai",
        ),
        (
            {"host": f"{RESOURCE}/openai/deployments/mini", "extra": {"api_version": "2024-10-21"}},
            "classic",
            "2024-10-21",
            f"{RESOURCE}/openai",
        ),
        (
            {"extra": {"azure_endpoint": "https://apim.example/llm", "azure_deployment": "mini"}},
            "v1",
            None,
            "https://apim.example/llm/openai/v1/",
        ),
        ({"host": "https://api.groq.com/openai/v1"}, None, None, "https://api.groq.com/openai/v1"),
        ({"host": "https://gateway.example/v1"}, None, None, "https://gateway.example/v1"),
        ({"host": "https://evil.example/x.openai.azure.com"}, None, None, None),
    ],
)
def test_a_connection_is_azures_by_its_host_or_because_it_says_so(hooked, fields, azure, version, base_url):
    hook = hooked(password=AZURE_KEY, **fields)
    config = hook.client.config
    assert (config.azure, config.api_version, config.expires) == (azure, version, azure is None)
    if base_url is not None:
        assert config.base_url == base_url
    assert isinstance(hook.client.sdk, openai.AzureOpenAI) == (azure == "classic")


@pytest.mark.parametrize(
    ("extra", "path"),
    [
        ({}, "/v1/chat/completions"),
        ({"azure_endpoint": RESOURCE}, "/v1/chat/completions"),
        ({"azure_endpoint": RESOURCE, "api_version": "2024-10-21"}, "/chat/completions"),
        ({"azure_endpoint": RESOURCE, "api_version": "2024-10-21", "batch_paths": "v1"}, "/v1/chat/completions"),
        ({"batch_paths": "plain"}, "/chat/completions"),
    ],
)
def test_paths_in_batches_are_the_servers(hooked, extra, path):
    config = hooked(password=AZURE_KEY, extra=extra).client.config
    assert config.wire_path("/v1/chat/completions") == path
    assert config.wire_path("/elsewhere") == "/elsewhere"


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"extra": {"api_version": "2024-10-21"}}, ConfigurationError, "'azure_endpoint' is needed: https://RESOURCE"),
        ({"extra": {"azure_auth": "entra"}, "password": ""}, ConfigurationError, "'azure_endpoint' is needed"),
        (
            {"host": V1, "extra": {"api_version": "2024-10-21"}},
            ConfigurationError,
            "'api_version' is 2024-10-21, but paths below /openai/v1 have none",
        ),
        ({"host": RESOURCE, "password": ""}, AuthenticationError, "has no API key.*For Entra set azure_auth to entra"),
        ({"host": RESOURCE, "extra": {"azure_auth": "aad"}}, ConfigurationError, "'azure_auth' must be key or entra"),
        (
            {"host": RESOURCE, "extra": {"azure_auth": "entra"}},
            ConfigurationError,
            "the password is then a client secret, which needs azure_tenant_id and azure_client_id",
        ),
        ({"extra": {"batch_paths": "/v1"}}, ConfigurationError, "'batch_paths' must be v1 or plain"),
        ({"extra": {"submission": "post"}}, ConfigurationError, "'submission' must be file or inline, not 'post'"),
        ({"extra": {"verify": "maybe"}}, ConfigurationError, "'verify' must be true or false"),
        (
            {"extra": {"ca_bundle": "/no/such.pem"}},
            ConfigurationError,
            "'ca_bundle' names /no/such.pem, which isn't th",
        ),
        (
            {"extra": {"ca_bundle": "/etc", "verify": False}},
            ConfigurationError,
            "'ca_bundle' is given, and verify is f",
        ),
        ({"extra": {"proxy": "proxy:3128"}}, ConfigurationError, "Check its base URL, proxy and openai_client_kwargs"),
        (
            {"extra": {"ca_bundle": __file__}},
            ConfigurationError,
            "Check its base URL, ca_bundle and openai_client_kwargs",
        ),
        ({"host": "https://user:pass@gateway.example/v1"}, ConfigurationError, "its base URL has a user or a password"),
        ({"password": ""}, AuthenticationError, "'openai_default' has no API key: it goes into the password field"),
    ],
)
async def test_what_can_not_be_is_named(hooked, fields, kind, message):
    hook = hooked(**{"password": AZURE_KEY, **fields})
    with pytest.raises(kind, match=message):
        _ = hook.client
    with pytest.raises(kind, match=message):
        await hook.aget_client()
    assert hook.test_connection()[0] is False


# Azure.


@pytest.mark.parametrize("extra", [{}, {"api_version": "2024-10-21"}, {"api_version": "preview"}])
async def test_azure_takes_its_key_in_both_styles(hooked, azure, extra):
    hook = hooked(password=AZURE_KEY, extra={"azure_endpoint": azure.url, **extra})
    style = "/openai/" if extra.get("api_version") == "2024-10-21" else "/openai/v1/"
    assert hook.test_connection() == (True, f"The Batch API answers at {azure.url}{style}")
    assert list(hook.list_batches()) == await looks_async(hook) == []


@pytest.mark.parametrize("extra", [{}, {"api_version": "2024-10-21"}])
@pytest.mark.parametrize("given", [{"azure_ad_token": TOKEN}, {"openai_client_kwargs": {"azure_ad_token": TOKEN}}])
async def test_azure_takes_an_entra_token(hooked, azure, extra, given):
    hook = hooked(password="", extra={"azure_endpoint": azure.url, **extra, **given})
    assert hook.test_connection()[0] is True
    assert list(hook.list_batches()) == await looks_async(hook) == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"password": "sk-an-openai-key-of-enough-characters"}, "invalid subscription key.*Check its API key"),
        ({"password": "", "extra": {"azure_ad_token": "eyJ.old.token"}}, "expired.*Check its API key"),
        ({"extra": {"api_version": "2024"}}, "Resource not found.*Check its azure_endpoint and api_version"),
        ({"extra": {"azure_endpoint": "{url}/nowhere"}}, "Check its azure_endpoint and api_version"),
    ],
)
def test_the_test_button_says_what_to_check_at_azure(hooked, azure, fields, says):
    extra = {"azure_endpoint": azure.url, **fields.get("extra", {})}
    extra["azure_endpoint"] = extra["azure_endpoint"].format(url=azure.url)
    ok, said = hooked(**{"password": AZURE_KEY, **fields, "extra": extra}).test_connection()
    assert ok is False
    assert "connection 'openai_default'" in said
    assert re.search(says, said), said


class Entra:
    """A stand-in for azure-identity: it notes what it was asked for, and gives a token a call."""

    def __init__(self):
        self.made, self.asked, self.threads, self.error = [], 0, set(), None

    def module(self):
        module = ModuleType("azure.identity")
        module.DefaultAzureCredential = lambda **named: self.made.append(("default", named)) or "machine"
        module.ClientSecretCredential = lambda *given: self.made.append(("secret", given)) or "principal"
        module.get_bearer_token_provider = self.provider
        return module

    def provider(self, credential, scope):
        self.made.append((credential, scope))
        return self.token

    def token(self):
        self.asked += 1
        self.threads.add(threading.current_thread())
        if self.error:
            raise self.error
        return TOKEN


@pytest.fixture
def entra(monkeypatch):
    entra = Entra()
    monkeypatch.setitem(sys.modules, "azure", ModuleType("azure"))
    monkeypatch.setitem(sys.modules, "azure.identity", entra.module())
    return entra


SCOPE = "https://cognitiveservices.azure.com/.default"


@pytest.mark.parametrize("style", [{}, {"api_version": "2024-10-21"}])
@pytest.mark.parametrize(
    ("fields", "made"),
    [
        ({"password": ""}, [("default", {}), ("machine", SCOPE)]),
        (
            {"password": "", "extra": {"azure_client_id": "c"}},
            [
                ("default", {"managed_identity_client_id": "c", "workload_identity_client_id": "c"}),
                ("machine", SCOPE),
            ],
        ),
        (
            {"password": "the-secret", "extra": {"azure_client_id": "c", "azure_tenant_id": "t"}},
            [("secret", ("t", "c", "the-secret")), ("principal", SCOPE)],
        ),
        (
            {"password": "", "extra": {"azure_scope": "https://ai.azure.com/.default"}},
            [("default", {}), ("machine", "https://ai.azure.com/.default")],
        ),
    ],
)
async def test_entra_asks_for_a_token_before_each_call_and_never_blocks_the_loop(
    hooked, azure, entra, style, fields, made
):
    extra = {"azure_endpoint": azure.url, "azure_auth": "entra", **style, **fields.get("extra", {})}
    hook = hooked(**{**fields, "extra": extra})
    assert list(hook.list_batches()) == []
    assert entra.made == made
    assert list(hook.list_batches()) == []
    assert entra.asked == 2
    entra.threads.clear()
    assert await looks_async(hook) == []
    assert entra.asked == 3
    assert threading.main_thread() not in entra.threads


@pytest.mark.parametrize(
    ("response", "kind"), [(SimpleNamespace(status_code=401), AuthenticationError), (None, NoTokenError)]
)
def test_no_token_is_told_with_what_to_check(hooked, azure, entra, response, kind):
    entra.error = RuntimeError("AADSTS7000215: Invalid client secret provided.\nTrace ID: 1")
    entra.error.response = response
    hook = hooked(password="", extra={"azure_endpoint": azure.url, "azure_auth": "entra"})
    with pytest.raises(kind, match=r"'openai_default': no Entra token: .*AADSTS7.*Check azure_tenant_id") as caught:
        list(hook.list_batches())
    assert type(caught.value) is kind
    assert caught.value.retryable is (response is None)


def test_entra_without_azure_identity_says_what_to_install(hooked, monkeypatch):
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    hook = hooked(password="", extra={"azure_endpoint": RESOURCE, "azure_auth": "entra"})
    with pytest.raises(ConfigurationError, match=r"pip install 'airflow-openai-batch\[azure\]'"):
        _ = hook.client


# Several projects, several keys.


def test_each_connection_has_its_own_key_and_sees_its_own_project(connect):
    with running(key=["sk-a=proj_a", "sk-b=proj_b"]) as emulator:
        hooks = {}
        for name in ("a", "b"):
            connect(emulator, f"openai_{name}", password=f"sk-{name}", extra={"max_retries": 0})
            hooks[name] = OpenAIBatchHook(f"openai_{name}")
        file = hooks["a"].upload_file(b'{"custom_id": "x"}\n')
        batch = hooks["a"].create_batch(file.id, endpoint="/v1/responses")
        assert [seen.id for seen in hooks["a"].list_batches()] == [batch.id]
        assert list(hooks["b"].list_batches()) == []
        with pytest.raises(NotFoundError, match=rf"Looking at batch {batch.id}: not found at connection 'openai_b'"):
            hooks["b"].retrieve_batch(batch.id)
        for hook in hooks.values():
            hook.close()


def test_organization_and_project_are_sent(hooked, relay):
    hook = hooked(host=f"{relay.url}/v1", extra={"organization": "org-1", "project": "proj_1"})
    list(hook.list_batches())
    assert (relay.seen[-1]["openai-organization"], relay.seen[-1]["openai-project"]) == ("org-1", "proj_1")


# The way there.


class Relay(http.server.ThreadingHTTPServer):
    """Passes calls on to an emulator: as a proxy where the call names a whole URL, else as the server itself."""

    daemon_threads = True

    def __init__(self, target, tls=None):
        super().__init__(("127.0.0.1", 0), RelayHandler)
        self.target, self.seen, self.paths, self.password, self.redirect = urlsplit(target).netloc, [], [], None, None
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """A client that distrusts the certificate hangs up: no news."""


class RelayHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        relay = self.server
        relay.seen.append({name.lower(): value for name, value in self.headers.items()})
        relay.paths.append(self.path)
        if relay.redirect:
            self.answer(307, b"", [("location", relay.redirect)])
            return
        wanted = None if relay.password is None else b64encode(relay.password.encode()).decode()
        if wanted and self.headers.get("proxy-authorization") != f"Basic {wanted}":
            self.answer(407, b"{}", [])
            return
        parts = urlsplit(self.path)
        upstream = http.client.HTTPConnection(parts.netloc or relay.target)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        kept = {name: value for name, value in self.headers.items() if name.lower() not in {"host", "connection"}}
        upstream.request(self.command, path, headers=kept)
        answer = upstream.getresponse()
        self.answer(answer.status, answer.read(), [("content-type", "application/json")])
        upstream.close()

    def answer(self, status, content, headers):
        self.send_response(status)
        for name, value in [*headers, ("content-length", str(len(content)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def relays():
    """Start relays."""
    started = []

    def start(target, **options):
        relay = Relay(target, **options)
        threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        started.append(relay)
        return relay

    yield start
    for relay in started:
        relay.shutdown()
        relay.server_close()


@pytest.fixture
def relay(relays, emulator):
    return relays(emulator.url)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that nobody knows: its file, and a server's context."""
    folder = tmp_path_factory.mktemp("ca")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a private CA")])
    today = dt.datetime.now(dt.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - dt.timedelta(days=1))
        .not_valid_after(today + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    bundle, private = folder / "ca.pem", folder / "key.pem"
    bundle.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle, private)
    return SimpleNamespace(bundle=str(bundle), context=context)


async def test_a_private_ca_is_trusted_because_the_connection_says_so(hooked, relays, emulator, certificate):
    server = relays(emulator.url, tls=certificate.context)
    host = f"{server.url}/v1"
    with pytest.raises(UnreachableError, match=r"no answer from connection .*CERTIFICATE_VERIFY_FAILED"):
        list(hooked(host=host).list_batches())
    trusting = hooked(host=host, extra={"ca_bundle": certificate.bundle})
    assert [b.id for b in trusting.list_batches()] == [b.id for b in await looks_async(trusting)]


async def test_certificates_can_be_left_unchecked_and_that_is_said(hooked, relays, emulator, certificate, caplog):
    server = relays(emulator.url, tls=certificate.context)
    hook = hooked(host=f"{server.url}/v1", extra={"verify": "false"})
    assert list(hook.list_batches()) == await looks_async(hook)
    assert "certificates aren't checked" in caplog.text


@pytest.mark.parametrize("at_azure", [False, True])
async def test_calls_go_through_the_connections_proxy(hooked, relays, emulator, azure, at_azure):
    target = azure if at_azure else emulator
    proxy = relays(target.url)
    proxy.password = "someone:p@ss:word"
    extra = {"proxy": proxy.url.replace("//", "//someone:p%40ss%3Aword@")}
    if at_azure:
        hook = hooked(password=AZURE_KEY, extra={"azure_endpoint": target.url, **extra})
    else:
        hook = hooked(target, extra=extra)
    assert list(hook.list_batches()) == await looks_async(hook)
    assert len(proxy.paths) >= 2
    assert {path.partition("?")[0] for path in proxy.paths} == {f"{target.base_url}/batches"}


def test_without_one_the_environments_proxy_counts(hooked, relays, emulator, monkeypatch):
    proxy = relays(emulator.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("http_proxy", proxy.url)
    assert hooked(emulator).test_connection()[0] is True
    assert len(proxy.paths) == 1


@pytest.mark.parametrize("style", [{}, {"api_version": "2024-10-21"}])
async def test_a_key_of_azure_is_not_sent_where_a_redirect_leads(hooked, relays, azure, emulator, style):
    stranger, resource = relays(emulator.url), relays(azure.url)
    resource.redirect = f"{stranger.url}/v1/batches"
    hook = hooked(password=AZURE_KEY, extra={"azure_endpoint": resource.url, **style})
    with pytest.raises(OpenAIBatchError):
        list(hook.list_batches())
    with pytest.raises(OpenAIBatchError):
        await looks_async(hook)
    assert [seen["api-key"] for seen in resource.seen] == [AZURE_KEY] * 2
    assert len(stranger.seen) == 2
    assert not [seen for seen in stranger.seen if {"api-key", "authorization"} & seen.keys()]


# Secrets.


@pytest.mark.parametrize(
    ("fields", "secret"),
    [
        ({"password": "sk-very-secret-key"}, "sk-very-secret-key"),
        ({"password": "very-secret-azure-key-0123456789ab", "extra": {"azure_endpoint": "{url}"}}, "very-secret"),
        (
            {
                "password": "very-secret-azure-key-0123456789ab",
                "extra": {"azure_endpoint": "{url}", "api_version": "2024-10-21"},
            },
            "very-secret",
        ),
        ({"password": "", "extra": {"azure_endpoint": "{url}", "azure_ad_token": "eyJ.very.secret"}}, "very.secret"),
        ({"extra": {"proxy": "http://someone:very-secret@127.0.0.1:1"}}, "very-secret"),
        ({"extra": {"proxy": "ftp://someone:very-secret@127.0.0.1:1"}}, "very-secret"),
        ({"host": "http://someone:very-secret@127.0.0.1:1/v1?key=very-secret"}, "very-secret"),
        ({"extra": {"openai_client_kwargs": {"default_headers": {"x-gateway": "very-secret"}}}}, "very-secret"),
    ],
)
async def test_no_secret_of_a_connection_shows_anywhere(hooked, emulator, caplog, fields, secret):
    caplog.set_level(logging.DEBUG)
    given = {"host": emulator.base_url, "password": "sk-test", **fields}
    extra = {
        name: v.format(url=emulator.url) if isinstance(v, str) else v for name, v in given.get("extra", {}).items()
    }
    hook = hooked(**{**given, "extra": extra})
    emulator.add_fault(f"status,status=401,message=Incorrect API key provided: {given['password']} {secret}.,times=9")
    shown = [repr(hook), str(vars(hook)), str(hook.test_connection())]
    try:
        shown += [repr(hook.client), repr(hook.client.config), str(vars(hook.client)), repr(hook.client.sdk)]
        hook.retrieve_batch("batch_1")
    except OpenAIBatchError as error:
        shown += [str(error), repr(error), repr(error.__cause__) if isinstance(error, ConfigurationError) else ""]
    with pytest.raises(OpenAIBatchError) as caught:
        await looks_async(hook)
    shown += [str(caught.value), caplog.text]
    assert not [text for text in shown if secret in text]
