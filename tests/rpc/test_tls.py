"""TLS of a real server over loopback: what is refused at start, who is let in, and certificates that change while it runs."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from structlog.testing import capture_logs

import asktell
from asktell import Float, Tls
from asktell.cli.app import root
from asktell_server.cli import main
from asktell_server.observe import logs
from asktell_server.rpc.tls import RotatingCertificate, TlsConfig, reaches_beyond_loopback

from ..certificates import Authority, Pair, private_pem
from ..support import ServerProcess, serving

SPACE: asktell.Space = {"x": Float(0, 1)}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine's decides a test."""
    for name in ("TLS", "TLS_CA", "TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "INSECURE", "TOKEN", "TOKEN_FILE"):
        monkeypatch.delenv(f"ASKTELL_{name}", raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this module's."""
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    """The authority that issued the server's certificate."""
    return Authority(folder, "authority")


@pytest.fixture(scope="module")
def clients(folder: Path) -> Authority:
    """The authority whose clients the mutual server lets in."""
    return Authority(folder, "clients")


@pytest.fixture(scope="module")
def mutual(folder: Path, authority: Authority, clients: Authority) -> Iterator[ServerProcess]:
    """A server that wants certificates of its clients."""
    pair = authority.issue("mutual")
    (folder / "mutual").mkdir()
    flags = ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--tls-client-ca", str(clients.cert))
    with serving(folder / "mutual", *flags, database=":memory:") as running:
        yield running


class Secret:
    """A Kubernetes secret mounted as a volume: files that are links through `..data`, which is swapped as a whole."""

    def __init__(self, folder: Path, pair: Pair) -> None:
        self.folder = folder
        self._generation = 0
        folder.mkdir()
        self.rotate(pair)
        for name in ("tls.crt", "tls.key"):
            (folder / name).symlink_to(Path("..data") / name)

    def rotate(self, pair: Pair) -> None:
        """Swaps the content of all files at once."""
        self._generation += 1
        data = self.folder / f"..{self._generation}"
        data.mkdir()
        shutil.copyfile(pair.cert, data / "tls.crt")
        shutil.copyfile(pair.key, data / "tls.key")
        (self.folder / "..new").symlink_to(data.name)
        (self.folder / "..new").replace(self.folder / "..data")

    @property
    def pair(self) -> Pair:
        """The files."""
        return Pair(self.folder / "tls.crt", self.folder / "tls.key")


@pytest.fixture(scope="module")
def secret(folder: Path, authority: Authority) -> Secret:
    """Where the rotating server's certificate comes from."""
    return Secret(folder / "secret", authority.issue("first"))


@pytest.fixture(scope="module")
def server(folder: Path, secret: Secret) -> Iterator[ServerProcess]:
    """A server that lets everybody in, over TLS."""
    (folder / "server").mkdir()
    flags = ("--tls-cert", str(secret.pair.cert), "--tls-key", str(secret.pair.key))
    with serving(folder / "server", *flags, database=":memory:") as running:
        yield running


def served(server: ServerProcess) -> bytes:
    """The certificate that the server shows to a new connection, in PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, port = server.target.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=60) as plain, context.wrap_socket(plain) as secured:
        der = secured.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


def complaints(server: ServerProcess) -> list[str]:
    """What the server's log says about files that it cannot use."""
    return [line for line in server.log.read_text().splitlines() if "TLS files cannot be used" in line]


def refused(*arguments: str, exit_code: int = 1, environment: dict[str, str] | None = None) -> str:
    """What `asktell serve` says when it does not start."""
    with patch.object(logs, "setup"):  # this process's logs are left alone
        done = CliRunner().invoke(main, ["--db", ":memory:", "--http-listen", "none", *arguments], env=environment)
    assert done.exit_code == exit_code, (done.output, done.exc_info)
    assert "Traceback" not in done.output
    return done.stderr


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "10.1.2.3:50051", "asktell.example:50051"])
def test_without_protection_only_the_loopback_is_listened_on(listen: str) -> None:
    """An address that other machines reach is refused, with what to do about it."""
    said = refused("--listen", listen)

    assert f"{listen} can be reached from other machines" in said
    assert "without TLS" in said
    assert "give --tls-cert and --tls-key" in said
    assert "without --auth" in said
    assert "Or listen on 127.0.0.1, or say --insecure" in said


def test_beyond_loopback_callers_must_be_known(tmp_path: Path, authority: Authority) -> None:
    """TLS alone keeps nobody out, tokens alone can be read on the way: with one of the two, the other is asked for."""
    pair = authority.issue("exposed")
    tls = ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key))

    encrypted, known = refused("--listen", "0.0.0.0:0", *tls), refused("--listen", "0.0.0.0:0", "--auth")

    assert "without --auth" in encrypted
    assert "without TLS" not in encrypted
    assert "without TLS" in known
    assert "without --auth" not in known
    for number, enough in enumerate((("--auth",), ("--tls-client-ca", str(authority.cert)), ("--insecure",))):
        folder = tmp_path / str(number)
        folder.mkdir()
        with serving(folder, "--listen", "0.0.0.0:0", *tls, *enough, database=":memory:") as running:
            assert running.target.startswith("0.0.0.0:")
        assert ("insecure: without --auth" in running.log.read_text()) == (enough == ("--insecure",))


@pytest.mark.parametrize(
    ("listen", "beyond"),
    [
        ("127.0.0.1:50051", False),
        ("127.9.9.9:50051", False),
        ("[::1]:50051", False),
        ("localhost:50051", False),
        ("unix:/run/asktell.sock", False),
        ("0.0.0.0:50051", True),
        ("[::]:50051", True),
        ("192.168.0.1:50051", True),
        ("localhost.example:50051", True),
    ],
)
def test_which_addresses_reach_beyond_loopback(listen: str, beyond: bool) -> None:
    """A name that is not localhost may be anybody's address."""
    assert reaches_beyond_loopback(listen) is beyond


def test_insecure_said_aloud_is_enough(tmp_path: Path) -> None:
    """With --insecure the server listens everywhere, says so in its log, and is used as ever."""
    with serving(tmp_path, "--listen", "0.0.0.0:0", "--insecure", database=":memory:") as running:
        port = running.target.rsplit(":", 1)[1]
        with asktell.connect(f"127.0.0.1:{port}", timeout=60) as client:
            client.create_study("digits", SPACE, maximize="accuracy", algorithm="random")

    said = running.log.read_text()
    assert "insecure: without TLS" in said
    assert "insecure: without --auth" in said


def test_the_http_port_tells_nothing_of_studies(tmp_path: Path, server: ServerProcess, authority: Authority) -> None:
    """The port without TLS may face the network: it serves counts, and names no project, study, worker or parameter."""
    words = {"project": "secretproject", "study": "secretstudy", "parameter": "secretparam", "metric": "secretmetric"}
    with asktell.connect(server.target, project=words["project"], tls=Tls(authority.cert), timeout=60) as client:
        space: asktell.Space = {words["parameter"]: Float(0, 1)}
        study = client.create_study(words["study"], space, maximize=words["metric"], algorithm="random")
        trial = study.ask(worker="secretworker")
        trial.report(1, {words["metric"]: 1.0})
        trial.tell({words["metric"]: 1.0})

    metrics = server.metrics()
    assert "asktell_tells_total" in metrics
    assert "secret" not in metrics


def partnerless(pair: Pair) -> Iterator[tuple[list[str], str]]:
    """TLS options that lack a partner, and which are there."""
    cert, key = ["--tls-cert", str(pair.cert)], ["--tls-key", str(pair.key)]
    client_ca = ["--tls-client-ca", str(pair.cert)]
    yield cert, "only --tls-cert"
    yield key, "only --tls-key"
    yield client_ca, "only --tls-client-ca"
    yield [*cert, *client_ca], "only --tls-cert and --tls-client-ca"


def test_tls_options_belong_together(authority: Authority) -> None:
    """One without its partner is an error that names both."""
    for arguments, there in partnerless(authority.issue("partnerless")):
        said = refused(*arguments, exit_code=2)

        assert "--tls-cert and --tls-key belong together, and --tls-client-ca needs both" in " ".join(said.split())
        assert there in " ".join(said.split())


def made_by_openssl(folder: Path, name: str, *algorithm: str) -> Pair:
    """A certificate that signs itself, and its key, of a kind that Python does not make."""
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    files = ("-keyout", str(pair.key), "-out", str(pair.cert))
    command = ["openssl", "req", "-x509", "-nodes", "-subj", "/CN=localhost", *files, "-newkey", *algorithm]
    subprocess.run(command, check=True, capture_output=True)
    return pair


def odd_pairs(folder: Path) -> Iterator[tuple[Pair, str]]:
    """Certificates with their keys that gRPC or its peers do not take, and what is said."""
    pss = made_by_openssl(folder, "pss", "rsa-pss")
    yield pss, f"the key of the certificate in {pss.cert} is marked as RSA-PSS, or else written in a way that gRPC"
    curve = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit")
    spelt_out = made_by_openssl(folder, "spelt-out", *curve)
    yield spelt_out, f"the key of the certificate in {spelt_out.cert} is marked as RSA-PSS, or else written"
    small = made_by_openssl(folder, "small", "rsa:1024")
    yield small, f"the key in {small.key} is of a kind that gRPC cannot use; take P-256, P-384, or RSA of 2048"
    unknown = made_by_openssl(folder, "unknown", "ec", "-pkeyopt", "ec_paramgen_curve:secp112r1")
    known = made_by_openssl(folder, "known", "rsa:2048")
    yield Pair(unknown.cert, known.key), f"the key of the certificate in {unknown.cert} cannot be read; take P-256"


def unusable(folder: Path, authority: Authority) -> Iterator[tuple[Path, Path, Path, str]]:
    """Certificate, key and client CA that cannot be used together, and what is said."""
    one, other = authority.issue("one"), authority.issue("other")
    junk, locked, odd = folder / "junk", folder / "locked.key", folder / "odd.key"
    junk.write_text("junk")
    locked.write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1()), b"passphrase"))
    odd.write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    yield one.cert, other.key, authority.cert, f"{other.key} is not the key of the certificate in {one.cert}"
    yield folder / "none", one.key, authority.cert, f"cannot read {folder}/none: No such file or directory"
    yield one.cert, folder / "none", authority.cert, f"cannot read {folder}/none: No such file or directory"
    yield one.cert, one.key, folder / "none", f"cannot read {folder}/none: No such file or directory"
    yield junk, one.key, authority.cert, f"{junk} holds no certificate in PEM that can be read"
    yield one.cert, junk, authority.cert, f"{junk} holds no private key in PEM that can be read"
    yield one.cert, one.key, junk, f"{junk} holds no certificate in PEM that can be read"
    yield one.cert, locked, authority.cert, f"the key in {locked} has a passphrase"
    yield one.cert, odd, authority.cert, f"the key in {odd} is of a kind that gRPC cannot use"
    for curve in (ec.SECP521R1, ec.SECP224R1, ec.SECP256K1, ec.BrainpoolP256R1):
        bent = folder / f"{curve.name}.key"
        bent.write_bytes(private_pem(ec.generate_private_key(curve())))
        yield one.cert, bent, authority.cert, f"the key in {bent} is of a kind that gRPC cannot use; take P-256, P-384"
    for pair, said in odd_pairs(folder):
        yield pair.cert, pair.key, authority.cert, said


def test_files_that_cannot_be_used_are_named(tmp_path: Path, authority: Authority) -> None:
    """The server does not start, and says which file is wrong and how; the database is not touched."""
    for cert, key, client_ca, said in unusable(tmp_path, authority):
        database = tmp_path / "studies.db"
        files = ("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", client_ca, "--db", database)

        assert f"cannot serve TLS: {said}" in refused(*map(str, files))
        assert not database.exists()


def test_a_study_over_tls(server: ServerProcess, authority: Authority) -> None:
    """A client that knows the authority works as over any other connection."""
    with asktell.connect(server.target, tls=Tls(authority.cert), timeout=60) as client:
        study = client.create_study("over-tls", SPACE, maximize="accuracy", algorithm="random")
        study.optimize(lambda trial: float(trial.params["x"]), n_trials=3, n_workers=2)

        best = study.best_trial
    assert best is not None
    assert best.metrics["accuracy"] == best.params["x"]


async def test_asyncio_over_tls(server: ServerProcess, authority: Authority) -> None:
    """And so does the asyncio client."""
    async with await asktell.aio.connect(server.target, tls=Tls(authority.cert), timeout=60) as client:
        study = await client.create_study("aio-over-tls", SPACE, maximize="accuracy", algorithm="random")
        trial = await study.ask()
        await trial.tell(accuracy=1.0)

        best = await study.best_trial()
    assert best is not None
    assert best.number == 1


def test_the_command_line_takes_tls_from_the_environment_and_from_options(
    server: ServerProcess, mutual: ServerProcess, authority: Authority, clients: Authority
) -> None:
    """Variables and options name the same files, and options win."""
    pair = clients.issue("operator")
    of_client = {"ASKTELL_TLS_CERT": str(pair.cert), "ASKTELL_TLS_KEY": str(pair.key)}

    def listed(target: str, environment: dict[str, str], *options: str | Path) -> str:
        arguments = ["--target", target, "--timeout", "60", *map(str, options), "study", "list"]
        done = CliRunner().invoke(root, arguments, env=environment, prog_name="asktell")
        return f"{done.exit_code} {done.stderr}"

    assert listed(server.target, {"ASKTELL_TLS_CA": str(authority.cert)}) == "0 "
    assert listed(server.target, {}, "--tls-ca", authority.cert) == "0 "
    assert listed(server.target, {"ASKTELL_TLS_CA": str(clients.cert)}, "--tls-ca", authority.cert) == "0 "
    assert listed(mutual.target, of_client, "--tls-ca", authority.cert) == "0 "
    assert listed(mutual.target, {"ASKTELL_TLS_CA": str(authority.cert), **of_client}) == "0 "
    assert listed(
        mutual.target, {"ASKTELL_TLS_CA": str(authority.cert)}, "--tls-cert", pair.cert, "--tls-key", pair.key
    ) == ("0 ")
    wrong = listed(server.target, {}, "--tls-ca", clients.cert)
    assert wrong.startswith("1 asktell: the server's certificate is not of an authority that this client trusts")
    assert "asktell serve" not in wrong


def test_only_clients_with_the_right_certificate_are_let_in(
    mutual: ServerProcess, authority: Authority, clients: Authority
) -> None:
    """Mutual TLS: a certificate of the clients' authority opens, none and one of another authority do not."""
    known, unknown = clients.issue("known"), authority.issue("unknown")
    with asktell.connect(mutual.target, tls=Tls(authority.cert, known.cert, known.key), timeout=60) as client:
        client.create_study("mutual", SPACE, maximize="accuracy", algorithm="random")

    for tls in (Tls(authority.cert), Tls(authority.cert, unknown.cert, unknown.key)):
        with asktell.connect(mutual.target, tls=tls, timeout=1) as client:
            with pytest.raises(asktell.Unavailable):
                client.get_study("mutual")


def test_a_rotated_certificate_serves_new_connections_and_leaves_old_ones(
    server: ServerProcess, secret: Secret, authority: Authority
) -> None:
    """Without a restart, the way Kubernetes does it; what is half done keeps the old one and is said once."""
    second, third, fourth = (authority.issue(name) for name in ("second", "third", "fourth"))
    with asktell.connect(server.target, tls=Tls(authority.cert), timeout=60) as client:
        study = client.create_study("rotated", SPACE, maximize="accuracy", algorithm="random")
        changes = study.watch()
        next(changes)

        secret.rotate(second)
        assert served(server) == second.cert.read_bytes()

        # One file after the other: while they are not a pair, the certificate that was in use stays.
        certificate, key = secret.pair.cert.resolve(), secret.pair.key.resolve()
        certificate.write_bytes(third.cert.read_bytes())
        assert [served(server) for _ in range(3)] == [second.cert.read_bytes()] * 3
        assert len(complaints(server)) == 1
        assert f"{secret.pair.key} is not the key of the certificate in {secret.pair.cert}" in complaints(server)[0]
        key.write_bytes(third.key.read_bytes()[:100])
        assert served(server) == second.cert.read_bytes()
        key.unlink()
        assert served(server) == second.cert.read_bytes()
        key.write_bytes(third.key.read_bytes())
        assert served(server) == third.cert.read_bytes()
        secret.rotate(fourth)
        assert served(server) == fourth.cert.read_bytes()
        assert len(complaints(server)) == 3

        study.ask().tell(accuracy=1.0)
        assert next(changes).revision > 1  # on the connection from before
    with asktell.connect(server.target, tls=Tls(authority.cert), timeout=60) as client:
        best = client.get_study("rotated").best_trial
    assert best is not None
    assert best.number == 1


def test_a_pair_that_grpc_cannot_use_does_not_replace_one_that_it_can(
    tmp_path: Path, server: ServerProcess, secret: Secret, authority: Authority
) -> None:
    """Whatever is odd about it, the certificate in use stays, and the log says why."""
    good = authority.issue("good")
    secret.rotate(good)
    assert served(server) == good.cert.read_bytes()

    for pair, said in odd_pairs(tmp_path):
        secret.rotate(pair)
        assert [served(server) for _ in range(2)] == [good.cert.read_bytes()] * 2
        said = said.replace(str(pair.cert), str(secret.pair.cert)).replace(str(pair.key), str(secret.pair.key))
        assert said in complaints(server)[-1]

    better = authority.issue("better")
    secret.rotate(better)
    assert served(server) == better.cert.read_bytes()


def test_a_key_is_taken_however_its_file_marks_it(tmp_path: Path) -> None:
    """One marked as RSA-PSS is of use with a certificate that does not say so."""
    pair = made_by_openssl(tmp_path, "marked", "rsa-pss")
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    pair.cert.write_bytes(certificate.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    with serving(tmp_path, "--tls-cert", str(pair.cert), "--tls-key", str(pair.key)) as running:
        assert served(running) == pair.cert.read_bytes()


def test_the_end_of_validity_is_a_metric(server: ServerProcess, secret: Secret, authority: Authority) -> None:
    """It is that of the certificate in use, so that an alert fires when rotation does not work."""
    pair = authority.issue("measured", valid=timedelta(hours=3))
    secret.rotate(pair)
    served(server)

    ends = x509.load_pem_x509_certificate(pair.cert.read_bytes()).not_valid_after_utc
    assert server.metric("asktell_tls_certificate_expiry_timestamp_seconds") == ends.timestamp()


def test_an_expired_certificate_is_served_under_protest(authority: Authority) -> None:
    """It is taken into use, because a clock may be wrong, and the log says what clients will say."""
    pair = authority.issue("expired", valid=timedelta(days=-1))

    with capture_logs() as said:
        RotatingCertificate(TlsConfig(pair.cert, pair.key)).credentials()

    assert [entry["event"] for entry in said if entry["log_level"] == "warning"] == [
        "the TLS certificate has expired: clients will refuse it"
    ]


def test_settings_come_from_the_environment(tmp_path: Path, authority: Authority) -> None:
    """As a container has them."""
    pair = authority.issue("environment")
    environment = {"ASKTELL_TLS_CERT": str(pair.cert), "ASKTELL_TLS_KEY": str(tmp_path / "none")}

    said = refused("--listen", "0.0.0.0:0", environment=environment)

    assert f"cannot serve TLS: cannot read {tmp_path}/none" in said
