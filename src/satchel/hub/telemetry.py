"""Metric names, and the one log line per turn. Session content is never in either."""

import logging

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from satchel.model import Complete, TurnStatus
from satchel.store.base import Turn

logger = logging.getLogger("satchel.hub")


class _Labelled(msgspec.Struct, frozen=True):
    """The metrics of one kind of turn."""

    turns: Counter
    sent_bytes: Counter
    received_bytes: Counter
    turn_seconds: Histogram


class Telemetry:
    """One hub's metrics, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._known: dict[tuple[str, str, str], _Labelled] = {}
        self.turns = Counter(
            "satchel_turns_total", "Turns that ended.", ("agent", "outcome", "start"), registry=self._registry
        )
        self.restarts = Counter(
            "satchel_restarts_total", "Attempts that were lost and run again.", ("agent",), registry=self._registry
        )
        self.sent_bytes = Counter(
            "satchel_state_sent_bytes_total", "Encoded state sent to workers.", ("agent",), registry=self._registry
        )
        self.received_bytes = Counter(
            "satchel_state_received_bytes_total", "Encoded state committed.", ("agent",), registry=self._registry
        )
        self.turn_seconds = Histogram(
            "satchel_turn_seconds",
            "From accepted to committed.",
            ("agent", "start"),
            registry=self._registry,
            buckets=(0.002, 0.005, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 600),
        )
        self.compactions = Counter(
            "satchel_compactions_total", "Compactions, by outcome.", ("outcome",), registry=self._registry
        )
        self.workers = Gauge("satchel_workers", "Connected workers.", registry=self._registry)
        self.running = Gauge("satchel_turns_running", "Attempts on workers now.", registry=self._registry)
        self.sessions = Gauge(
            "satchel_sessions_with_work", "Sessions with an unfinished turn.", registry=self._registry
        )

    def turn_ended(self, turn: Turn, status: TurnStatus, complete: Complete) -> None:
        """Count a turn and write its line."""
        report = complete.turn
        start = report.start.value if report.start is not None else "none"
        outcome = complete.error.code if complete.error is not None else status.value
        labelled = self._labelled(turn.agent, outcome, start)
        labelled.turns.inc()
        labelled.sent_bytes.inc(report.sent_bytes)
        if complete.error is None:
            labelled.received_bytes.inc(report.received_bytes)
            labelled.turn_seconds.observe(report.total_ms / 1000)
        logger.info(
            "turn ended",
            extra={
                "action": "turn_ended",
                "tenant": turn.key.tenant,
                "session_id": turn.key.session_id,
                "message_id": turn.message_id,
                "agent": turn.agent,
                "outcome": outcome,
                "version": complete.session_state.version if complete.session_state is not None else None,
                "start": start,
                "worker_id": report.worker_id,
                "attempts": report.attempts,
                "sent_bytes": report.sent_bytes,
                "received_bytes": report.received_bytes,
                "handler_ms": round(report.handler_ms, 3),
                "total_ms": round(report.total_ms, 3),
            },
        )

    def _labelled(self, agent: str, outcome: str, start: str) -> "_Labelled":
        """Return what a turn of these labels counts in; found once, since finding costs more than counting."""
        labelled = self._known.get((agent, outcome, start))
        if labelled is None:
            labelled = self._known[(agent, outcome, start)] = _Labelled(
                turns=self.turns.labels(agent, outcome, start),
                sent_bytes=self.sent_bytes.labels(agent),
                received_bytes=self.received_bytes.labels(agent),
                turn_seconds=self.turn_seconds.labels(agent, start),
            )
        return labelled

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)
