"""TLS of the gRPC port: the server's certificate, which may be replaced while the server runs, and whom it lets in.

gRPC asks for the certificate at every handshake. What the files hold is compared with what is in use then, so a
certificate that was rotated (by cert-manager, by a Kubernetes secret, by hand) serves the next connection, without a
restart and without a signal; connections that exist go on. Files that cannot be used, because they are half written or
because only one of the pair has been replaced, change nothing: the certificate in use stays, and the log says why, once.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

log = structlog.get_logger()

_SMALLEST_RSA = 2048
_USABLE = f"take P-256, P-384, or RSA of {_SMALLEST_RSA} bits or more"


class UnusableCertificate(Exception):
    """The certificate, its key or the client CA cannot be used; the message names the file and what is wrong."""


@dataclass(frozen=True)
class TlsConfig:
    """Files in PEM. They may be symbolic links that move.

    `cert`: the server's certificate, followed by the intermediate ones if there are any. `key`: its private key, without a
    passphrase: P-256, P-384, or RSA of 2048 bits or more. `client_ca`: certificates of the authorities whose clients are let in; every
    client must then show a certificate of theirs (mutual TLS). None: clients need no certificate.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True)
class _Files:
    """What the files of a `TlsConfig` held at one moment."""

    cert: bytes
    key: bytes
    client_ca: bytes | None


class RotatingCertificate:
    """The certificate of a port, as of its files' content at the latest handshake."""

    def __init__(self, config: TlsConfig, loaded: Callable[[datetime], None] = lambda _: None) -> None:
        """Reads the files. `loaded` is told the end of validity of each certificate taken into use. Raises UnusableCertificate."""
        self._config = config
        self._loaded = loaded
        self._lock = threading.Lock()
        self._seen = _read(config)
        self._complaint = ""
        self._initial = self._checked(self._seen)

    def credentials(self) -> grpc.ServerCredentials:
        """What a port is opened with."""
        return grpc.dynamic_ssl_server_credentials(
            self._initial,
            self._renewed,  # type: ignore[arg-type]  # the stubs forget that None means "as before"
            require_client_authentication=self._config.client_ca is not None,
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC at each handshake, from a thread of its own: a new configuration, or None for the one in use."""
        with self._lock:
            try:
                files = _read(self._config)
                if files == self._seen:
                    return None
                renewed = self._checked(files)
            except UnusableCertificate as error:
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    log.warning("TLS files cannot be used; the certificate in use stays", error=str(error))
                return None
            self._seen = files
            self._complaint = ""
            return renewed

    def _checked(self, files: _Files) -> grpc.ServerCertificateConfiguration:
        """The configuration made of files that fit each other. Raises UnusableCertificate."""
        certificates = _certificates(files.cert, self._config.cert)
        key = _private_key(files.key, self._config.key)
        if _public_key(certificates[0], self._config.cert) != key.public_key():
            raise UnusableCertificate(f"{self._config.key} is not the key of the certificate in {self._config.cert}")
        if files.client_ca is not None and self._config.client_ca is not None:
            _certificates(files.client_ca, self._config.client_ca)
        ends = certificates[0].not_valid_after_utc
        if ends < datetime.now(UTC):
            log.warning("the TLS certificate has expired: clients will refuse it", file=str(self._config.cert))
        log.info("TLS certificate loaded", file=str(self._config.cert), valid_until=ends.isoformat())
        self._loaded(ends)
        # Of the ways to write a key, gRPC reads fewer.
        plain_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return grpc.ssl_server_certificate_configuration([(plain_key, files.cert)], root_certificates=files.client_ca)


def reaches_beyond_loopback(listen: str) -> bool:
    """Whether other machines can connect to this gRPC address. A name other than localhost is taken to mean that they can."""
    if listen.startswith("unix:"):
        return False
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def _read(config: TlsConfig) -> _Files:
    client_ca = None if config.client_ca is None else _content(config.client_ca)
    return _Files(_content(config.cert), _content(config.key), client_ca)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableCertificate(f"cannot read {path}: {error.strerror}") from error


def _certificates(pem: bytes, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise UnusableCertificate(f"{path} holds no certificate in PEM that can be read") from error


def _public_key(certificate: x509.Certificate, path: Path) -> CertificatePublicKeyTypes:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnusableCertificate(f"the key of the certificate in {path} cannot be read; {_USABLE}") from error
    # BoringSSL reads keys as they are usually written: neither RSA-PSS nor a curve that is spelt out instead of named.
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) not in certificate.tbs_certificate_bytes:
        raise UnusableCertificate(
            f"the key of the certificate in {path} is marked as RSA-PSS, or else written in a way that gRPC cannot read; {_USABLE}"
        )
    return key


def _private_key(pem: bytes, path: Path) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise UnusableCertificate(f"the key in {path} has a passphrase; the server needs it without one") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnusableCertificate(f"{path} holds no private key in PEM that can be read") from error
    # BoringSSL refuses other curves and smaller keys, or its peers do.
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _SMALLEST_RSA:
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return key
    raise UnusableCertificate(f"the key in {path} is of a kind that gRPC cannot use; {_USABLE}")
