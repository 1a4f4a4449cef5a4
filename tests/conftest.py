"""What holds for every test."""

import signal

# A shell that starts a job in the background has it ignore SIGINT, and so does every child. The tests
# of Ctrl-C are about what we do with it.
signal.signal(signal.SIGINT, signal.default_int_handler)
