"""Links to what this process serves: printed, opened in the browser, and valid until ctrl-C."""

from __future__ import annotations

import os
import threading
import webbrowser
from collections.abc import Callable
from urllib.parse import urlsplit


def offer_link(
    link: str, *, browser: bool = True, public: bool = False, wait: Callable[[], object] | None = None
) -> None:
    """Print a link and open it in the browser, until ctrl-C; over SSH, print how to reach it instead.

    Args:
        link: Address on this machine.
        browser: Whether to open a browser.
        public: Whether other machines can open the link too.
        wait: Called in place of waiting for ctrl-C.
    """
    print(link, flush=True)
    if os.environ.get("SSH_CONNECTION") and not public:
        server, port = os.environ["SSH_CONNECTION"].split()[2], urlsplit(link).port
        print(f"On your own machine, first: ssh -L {port}:127.0.0.1:{port} {server}")
    elif browser:
        webbrowser.open(link)
    print("The link works until you press ctrl-C.", flush=True)
    (wait or threading.Event().wait)()
