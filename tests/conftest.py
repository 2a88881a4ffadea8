"""What every test relies on."""

import os
import signal
import tempfile

pytest_plugins = ["browser.fixtures", "mongo_server.fixtures"]

# A shell that starts a command in the background makes it ignore ctrl-C, and nohup the closing of the terminal; what
# it starts inherits that. The tests of interruption mean the behaviour at a terminal, wherever they are started from.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Records of blockwise jobs go to a folder of this session's own, in child processes too.
os.environ["INCASEM_JOBS"] = tempfile.mkdtemp(prefix="incasem-test-jobs-")
