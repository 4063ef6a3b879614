"""What the dashboard refuses to browsers, and the headers that it adds to Optuna's answers.

Its pages have no authentication. A browser that visits them also visits foreign sites, whose
scripts must neither read nor change anything here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kdecay_search.errors import KDecayError
from kdecay_search.report.cells import safe_csv

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
"""Names of this machine that are always answered."""
READING = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""
POLICY = "Content-Security-Policy"
HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every answer: no other site may show these pages or load anything from them."""
DROPPED = frozenset({"access-control-allow-origin", *map(str.lower, HEADERS)})
"""Headers of Optuna's answers that are left out, in lower case."""
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")

Headers = list[tuple[str, str]]


def known_names(host: str, allowed: Iterable[str] = ()) -> list[str]:
    """Return the names under which the dashboard answers.

    Args:
        host: The address that it listens on.
        allowed: Further names, as users gave them.

    Raises:
        KDecayError: One of ``allowed`` is not a host name or an address.
    """
    bound = [] if is_any_address(host) else [host.lower()]
    return list(dict.fromkeys([*LOOPBACK_NAMES, *bound, *map(_checked, allowed)]))


def is_any_address(host: str) -> bool:
    """Return whether ``host`` stands for all addresses of this machine, as 0.0.0.0 does."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


def guarded(pages: WSGIApplication, names: Collection[str]) -> WSGIApplication:
    """Return ``pages`` behind the guard.

    A request is refused if it is for a name that is not in ``names``: a foreign site can let a name
    of its own point to this machine, and its scripts would then count as ours. It is also refused
    if it would change something and comes from another site. Artifacts are downloads, so that a
    browser runs no script in one, and the cells of CSV files hold no formulas.
    """

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if _host_name(environ) not in names:
            listed = ", ".join(names)
            return _refuse(start, f"This dashboard answers to the names {listed} only; "
                                  "kdecay dashboard --allow-host NAME adds one.")  # fmt: skip
        if environ["REQUEST_METHOD"] not in READING and not _is_same_site(environ):
            return _refuse(start, "This request comes from another site.")
        if environ.get("PATH_INFO", "").startswith("/csv/"):
            return _safe_table(pages, environ, start)

        def start_with_headers(status: str, headers: Headers, *error: Any) -> Any:
            return start(status, _with_headers(environ, headers), *error)

        return pages(environ, start_with_headers)

    return answer


def _checked(name: str) -> str:
    plain = name.strip().lower()
    try:
        return str(ipaddress.ip_address(plain.removeprefix("[").removesuffix("]")))
    except ValueError:
        if _NAME.fullmatch(plain):
            return plain
    raise KDecayError(
        f"--allow-host {name}: must be a host name or an address, such as gpu1.example.org, "
        "without http:// and without a port"
    )


def _host_name(environ: WSGIEnvironment) -> str | None:
    """The name that the request is for, without the port; None if it states none."""
    host = environ.get("HTTP_HOST", "")
    try:
        parts = urlsplit(f"//{host}")
        if parts.netloc != host or "@" in host:
            return None
        return (parts.hostname or "").removesuffix(".") or None
    except ValueError:
        return None


def _is_same_site(environ: WSGIEnvironment) -> bool:
    """Whether no browser says that the request comes from elsewhere; other programs say nothing."""
    if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("same-origin", "none"):
        return False
    origin = environ.get("HTTP_ORIGIN")
    own = [f"{scheme}://{environ['HTTP_HOST']}".lower() for scheme in ("http", "https")]
    return origin is None or origin.lower() in own


def _refuse(start: StartResponse, reason: str) -> list[bytes]:
    start("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8"), *HEADERS.items()])
    return [f"{reason}\n".encode()]


def _with_headers(environ: WSGIEnvironment, headers: Headers) -> Headers:
    policy = [value for name, value in headers if name.lower() == POLICY.lower()]
    if environ.get("PATH_INFO", "").startswith("/artifacts/"):
        policy = ["sandbox", "default-src 'none'"]
        headers = [*headers, ("Content-Disposition", "attachment")]
    policy.append("frame-ancestors 'none'")
    dropped = DROPPED | {POLICY.lower()}
    kept = [(name, value) for name, value in headers if name.lower() not in dropped]
    return [*kept, *HEADERS.items(), (POLICY, "; ".join(policy))]


def _safe_table(
    pages: WSGIApplication, environ: WSGIEnvironment, start: StartResponse
) -> Iterable[bytes]:
    begun: list[tuple[str, Headers]] = []

    def hold(status: str, headers: Headers, *error: Any) -> Callable[[bytes], object]:
        begun.append((status, headers))
        return lambda data: None

    body = b"".join(pages(environ, hold))
    status, headers = begun[-1]
    if status.startswith("200") and environ["REQUEST_METHOD"] == "GET":
        body = safe_csv(body.decode()).encode()
    kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
    start(status, _with_headers(environ, [*kept, ("Content-Length", str(len(body)))]))
    return [body]
