"""Names and addresses of hosts: which are this machine's loopback, and where a redirect may lead."""

import ipaddress
from urllib.parse import quote, urlsplit


def is_loopback(host: str) -> bool:
    """Whether an address or name of a host can be reached from this machine only."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def names_loopback(host_header: str) -> bool:
    """Whether a `Host` header, a name with or without a port, is a name of this machine's loopback.

    A page elsewhere can have its own name lead to 127.0.0.1 and then read what a server there says to a
    browser (DNS rebinding); the header still has the page's name.
    """
    if not host_header:  # HTTP/1.0; browsers send it
        return True
    try:
        return is_loopback(urlsplit(f"//{host_header}").hostname or "")
    except ValueError:
        return False


def relative_location(path: str, location: str) -> str:
    """A redirect that only adds or takes slashes at the end of a path, relative to that path.

    It names neither host nor scheme, so it reflects no `Host` header, stays on https behind a proxy that
    ends it, and holds under a prefix that such a proxy takes away.

    path:     of the request, decoded
    location: the absolute URL to lead to
    """
    target = urlsplit(location)
    segment = quote(path.rstrip("/").rpartition("/")[2])
    slashes = len(path) - len(path.rstrip("/"))
    # "./": a segment with a colon would be a scheme
    way = "../" * slashes + segment if slashes else f"./{segment}/"
    return f"{way}?{target.query}" if target.query else way
