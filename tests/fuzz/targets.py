"""Everything that takes bytes from outside: a function each that raises only when a promise about them is broken.

The same functions are run by Hypothesis in CI, by a coverage-guided fuzzer by hand
(``just fuzz``), and over every find that was kept.
"""

from collections.abc import Callable

import hypothesis.strategies as st
import msgspec

from tests.fuzz import links, wire
from tests.fuzz.http import Requests, near_requests
from tests.fuzz.runtimes import Scripts, near_scripts
from tests.fuzz.states import States, check_payload, near_payloads, payload_corpus


class Target(msgspec.Struct, frozen=True):
    """*check* raises if its bytes did what bytes may not, and tells whether they were taken.

    *corpus* makes bytes to begin from; *near* makes them by what they mean, since edits
    of the bytes alone seldom get past the first look.
    """

    name: str
    check: Callable[[bytes], bool]
    corpus: Callable[[], list[bytes]]
    near: Callable[[], st.SearchStrategy[bytes]]


def targets() -> dict[str, Target]:
    """Return every target by its name."""
    states, requests, scripts = States(), Requests(), Scripts()
    made = (
        Target("frame-to-hub", wire.check_frame_to_hub, wire.worker_corpus, wire.near_worker_frames),
        Target("frame-to-worker", wire.check_frame_to_worker, wire.hub_corpus, wire.near_hub_frames),
        Target("link", links.check_link_order, links.link_orders, links.near_link_orders),
        Target("payload", check_payload, payload_corpus, near_payloads),
        Target("changeset", states.check_changeset, states.changesets, states.near_changesets),
        Target("image", states.check_image, states.images, states.near_images),
        Target("request", requests.check, requests.corpus, near_requests),
        Target("runtime", scripts.check, scripts.corpus, near_scripts),
    )
    return {target.name: target for target in made}
