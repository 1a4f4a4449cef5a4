"""Give one target bytes that nobody sends.

    just fuzz image                   coverage-guided, until it finds something or is stopped
    just fuzz image --seconds 300     for five minutes
    just fuzz image --examples 500    near-valid inputs, the same ones every time
    just fuzz image --replay          every input that ever broke it

Finds are kept in tests/fuzz/finds/<target>/ and replayed in CI.
"""

import argparse
import logging
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

MEMORY_BYTES_MAX = 2 * 1024**3
"""Of the whole process: an input that makes it ask for more is a find."""
INPUT_BYTES_MAX = 128 * 1024
FINDS = Path(__file__).parent / "finds"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="just fuzz", description="Give one target bytes that nobody sends.")
    parser.add_argument("target", help="what takes the bytes; 'list' names all")
    parser.add_argument("--seconds", type=int, default=0, help="how long (default: until stopped)")
    parser.add_argument("--examples", type=int, help="run this many near-valid inputs, and end")
    parser.add_argument("--replay", action="store_true", help="run what was found before, and end")
    chosen = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    if chosen.examples is None and not chosen.replay and chosen.target != "list":
        return fuzz(chosen.target, chosen.seconds)
    from tests.fuzz.targets import targets  # noqa: PLC0415  # not before the fuzzer had a chance to instrument it

    known = targets()
    if chosen.target not in known:
        print("\n".join(known))
        return 0 if chosen.target == "list" else 2
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    target = known[chosen.target]
    if chosen.replay:
        for find in sorted((FINDS / target.name).glob("*")):
            print(find.name, flush=True)  # the last name is what ended the process
            target.check(find.read_bytes())
    if chosen.examples is not None:
        explore(target, chosen.examples)
    return 0


def explore(target: "Target", examples: int) -> None:  # type: ignore[name-defined]  # noqa: F821  # imported late
    """Run *examples* near-valid inputs; a failure is shrunk, and printed as bytes.

    Half of them are edited bytes, half are made by what they mean. Of the second half some
    must be taken and some refused: inputs that all end at the first look test nothing.
    """
    from hypothesis import HealthCheck, Phase, given, note, settings  # noqa: PLC0415  # as above

    from tests.fuzz.inputs import near  # noqa: PLC0415

    each = settings(
        max_examples=max(1, examples // 2),
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    taken: list[bool] = []

    def run(data: bytes) -> None:
        note(f"bytes.fromhex({data.hex()!r})")
        taken.append(target.check(data))

    for valid in target.corpus():
        target.check(valid)
    each(given(near(target.corpus()))(run))()
    taken.clear()
    each(given(target.near())(run))()
    print(f"{target.name}: {sum(taken)} of {len(taken)} made inputs were taken")
    least = len(taken) // 50
    assert least <= sum(taken) <= len(taken) - least, "nearly all are taken, or nearly none"


def fuzz(name: str, seconds: int) -> int:
    """Search by coverage. Ends with the first find."""
    try:
        import atheris  # noqa: PLC0415  # only here, and only in its own group
    except ImportError:
        print("The coverage-guided fuzzer is not installed: uv run --group fuzz python -m tests.fuzz ...")
        return 2
    with atheris.instrument_imports(include=["satchel"], enable_loader_override=False):
        from tests.fuzz.targets import targets  # noqa: PLC0415

        known = targets()  # here, since some are imported as they are made
    target = known[name]
    finds = FINDS / name
    finds.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="satchel-fuzz-") as corpus:
        for number, valid in enumerate(target.corpus()):
            Path(corpus, str(number)).write_bytes(valid)
        options = [
            f"-artifact_prefix={finds}/",
            f"-max_len={INPUT_BYTES_MAX}",
            "-timeout=20",
            f"-rss_limit_mb={MEMORY_BYTES_MAX // 1024**2}",
            f"-max_total_time={seconds}",
            corpus,
            str(finds),
        ]

        def check(data: bytes) -> None:  # the fuzzer wants no answer
            target.check(data)

        atheris.Setup([sys.argv[0], *options], check)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
