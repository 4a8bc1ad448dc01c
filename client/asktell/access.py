"""How a client gets in: TLS, and the token that says who calls.

TLS is used when it is asked for: by `tls=`, else by the environment. A token goes with every attempt of every call, read
anew from its file each time, because tokens of Kubernetes and of many identity providers are replaced within the hour. Files of
TLS that were replaced are used from the next call on, over a new connection; calls in flight stay on the old one. A token
never goes out unencrypted to another machine unless `insecure=True` says that it may, and never into a text: not into a
repr, a log or an error.

    ASKTELL_TLS          1: TLS; 0: none, whatever else is set
    ASKTELL_TLS_CA       TLS, with a server known to these authorities (a file in PEM)
    ASKTELL_TLS_CERT     this client's certificate and
    ASKTELL_TLS_KEY      its key (files in PEM), for a server that wants one; they do not switch TLS on by themselves
    ASKTELL_TOKEN        the token, or
    ASKTELL_TOKEN_FILE   the file that it is in
    ASKTELL_INSECURE     1: the token may go out without TLS
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from asktell._status import CANNOT_CONNECT
from asktell.errors import CredentialsError

StrPath = str | os.PathLike[str]

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # a b64token of RFC 6750, section 2.1
_SCHEMES = ("dns:///", "dns:", "ipv4:", "ipv6:")
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Tls:
    """How the server proves who it is, and how this client does. The files are read by `connect`, and again when they change."""

    ca: StrPath | None = None
    """Certificates of the authorities to trust, in PEM; None: those that come with gRPC, which are the public ones."""
    cert: StrPath | None = None
    """This client's certificate, in PEM, for a server that wants one (mutual TLS)."""
    key: StrPath | None = None
    """The private key of `cert`, in PEM without a passphrase."""


@dataclass(frozen=True, slots=True)
class _Pem:
    """Content of the files of a `Tls`."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None = field(repr=False)


class TlsFiles:
    """What the files of a `Tls` hold. Raises CredentialsError if they cannot be used at first."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._stamps = self._look()
        self.pem = _read_tls(tls)

    def changed(self) -> bool:
        """Whether `pem` is new, because files were replaced since the last look by others that can be used. Half-written ones change
        nothing yet. For one thread at a time.
        """
        stamps = self._look()
        if stamps == self._stamps:
            return False
        try:
            pem = _read_tls(self._tls)
        except CredentialsError:
            return False
        before, self._stamps, self.pem = self.pem, stamps, pem
        return pem != before

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in (self._tls.ca, self._tls.cert, self._tls.key) if path is not None)


def _stamp(path: StrPath) -> tuple[int, int, int] | None:
    """What changes when a file is replaced, by its own name or by that of a folder that a link leads through."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


@dataclass(frozen=True, slots=True)
class Access:
    """What a transport needs of it, checked."""

    tls: TlsFiles | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What is sent with an attempt of a call. Raises CredentialsError if the token's file cannot be used."""
        token = self.token
        if self.token_file is not None:
            token = _checked_token(_read(self.token_file, "the token").decode("ascii", "replace"), str(self.token_file))
        return () if token is None else (("authorization", f"Bearer {token}"),)

    def explained(self, message: str) -> str:
        """A text of gRPC's about a connection that failed, with what it may mean when TLS or its absence may be the reason."""
        if not (message.startswith(CANNOT_CONNECT) and any(sign in message for sign in _HUNG_UP)):
            return message
        if self.tls is None:
            return f"{message}; so does a server that wants TLS: tls=True or ASKTELL_TLS=1, if this one does"
        if self.tls.pem.cert is None:
            return f"{message}; so does a server that wants a client's certificate: Tls(cert=..., key=...), if this one does"
        return f"{message}; so does a server that does not accept this client's certificate"


_HUNG_UP = ("Socket closed", "Connection reset", "Broken pipe")


def resolve_access(
    target: str,
    tls: Tls | bool | None = None,
    token: str | None = None,
    token_file: StrPath | None = None,
    *,
    insecure: bool | None = None,
) -> Access:
    """The access meant by arguments of `connect`, and by the environment where an argument is None. Raises CredentialsError."""
    if target.startswith(("http://", "https://")):
        raise CredentialsError(f"{target} is not a target: write host:port, and tls=True or ASKTELL_TLS=1 for TLS")
    if token is not None and token_file is not None:
        raise CredentialsError("token and token_file are both given: keep one")
    if token is None and token_file is None:
        token, token_file = os.environ.get("ASKTELL_TOKEN") or None, os.environ.get("ASKTELL_TOKEN_FILE") or None
        if token is not None and token_file is not None:
            raise CredentialsError("ASKTELL_TOKEN and ASKTELL_TOKEN_FILE are both set: keep one")
    if insecure is None:
        insecure = _switch("ASKTELL_INSECURE") or False
    meant = _meant(tls)
    if meant is None and (token is not None or token_file is not None) and not insecure and not is_loopback(target):
        raise CredentialsError(
            f"a token would go to {target} unencrypted, for anybody on the way to read: use TLS (tls=True or ASKTELL_TLS=1, "
            "with the server's CA if it is not a public one), or say insecure=True or ASKTELL_INSECURE=1"
        )
    access = Access(
        tls=None if meant is None else TlsFiles(meant),
        token=None if token is None else _checked_token(token, "the token"),
        token_file=None if token_file is None else Path(token_file),
    )
    access.metadata()  # a file that is not there is said now
    return access


def is_loopback(target: str) -> bool:
    """Whether what is sent to a gRPC target stays on this machine."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    for scheme in _SCHEMES:
        if target.startswith(scheme):
            target = target.removeprefix(scheme)
            break
    return all(_is_loopback_host(address) for address in target.split(","))


def _is_loopback_host(address: str) -> bool:
    host = (
        address.partition("]")[0].removeprefix("[")
        if address.startswith("[")
        else address.rpartition(":")[0] or address
    )
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _meant(tls: Tls | bool | None) -> Tls | None:
    if isinstance(tls, Tls):
        return tls
    environment = os.environ
    ca, cert, key = (environment.get(f"ASKTELL_TLS_{name}") or None for name in ("CA", "CERT", "KEY"))
    if tls is None:
        tls = _switch("ASKTELL_TLS")
    if tls is None:
        tls = ca is not None
    return Tls(ca, cert, key) if tls else None


def _switch(variable: str) -> bool | None:
    text = os.environ.get(variable, "").lower()
    if text in _YES:
        return True
    if text in _NO:
        return False
    if text:
        raise CredentialsError(f"{variable} is {text!r}; set it to 1 or 0")
    return None


def _read_tls(tls: Tls) -> _Pem:
    import ssl  # only those who use TLS need it

    if (tls.cert is None) != (tls.key is None):
        lacking = "key" if tls.key is None else "cert"
        raise CredentialsError(
            f"a client's certificate needs cert and key (ASKTELL_TLS_CERT, ASKTELL_TLS_KEY): no {lacking}"
        )
    ca = None if tls.ca is None else _read(tls.ca, "the CA's certificates")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        try:
            context.load_verify_locations(cadata=ca.decode("ascii", "replace"))
        except (ssl.SSLError, ValueError):
            raise CredentialsError(f"{tls.ca} holds no certificate in PEM that can be read") from None
    if tls.cert is None or tls.key is None:
        return _Pem(ca, None, None)
    cert, key = _read(tls.cert, "the certificate"), _read(tls.key, "the key")
    try:
        # An empty passphrase, lest OpenSSL asks for one on the terminal.
        context.load_cert_chain(tls.cert, tls.key, password="")
    except (ssl.SSLError, OSError):
        raise CredentialsError(
            f"{tls.cert} and {tls.key} are not a certificate and its private key, in PEM without a passphrase"
        ) from None
    return _Pem(ca, cert, key)


def _read(path: StrPath, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CredentialsError(f"cannot read {what} in {os.fspath(path)}: {error.strerror}") from None


def _checked_token(text: str, where: str) -> str:
    token = text.strip()
    if not token:
        raise CredentialsError(f"{where} is empty")
    if not _TOKEN.fullmatch(token):
        raise CredentialsError(f"{where} is not a bearer token: only letters, digits and -._~+/= may be in it")
    return token
