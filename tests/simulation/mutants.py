"""The product with one rule left out, each rule in turn: what the simulation must notice.

*breaks* is the promise that is seen broken first in most seeds, *seed* one that
breaks one, under the *harm* that it takes or under its own faults. ``just sim --mutants`` measures them.
"""

from typing import Final

from tests.simulation.mutation import Edit, Mutant

_MUTANTS: Final = (
    # --- what the store compares before it writes ---
    Mutant(
        "skip the epoch check",
        breaks="FENCED",
        seed=100003,
        edits=(
            Edit("store.fence:check_attempt", " or turn.epoch != epoch", ""),
            Edit("store.fence:check_commit", "session.epoch != commit.epoch or ", ""),
        ),
    ),
    Mutant(
        "compare the version but not the state ID at the commit",
        breaks="FENCED",
        seed=100005,
        edits=(
            Edit(
                "store.fence:check_commit", "session.head != commit.base", "session.head.version != commit.base.version"
            ),
        ),
    ),
    Mutant(
        "skip the comparison of the head",
        breaks="FENCED",
        seed=100001,
        edits=(Edit("store.fence:check_commit", " or session.head != commit.base", ""),),
    ),
    Mutant(
        "commit a turn that was cancelled",
        breaks="FENCED",
        seed=100001,
        edits=(
            Edit("store.fence:check_commit", "check_attempt(turn, commit.epoch)", "pass"),
            Edit("store.fence:check_commit", "session.epoch != commit.epoch or ", ""),
        ),
    ),
    # --- order ---
    Mutant(
        "start a turn that is not first",
        breaks="ORDER",
        seed=100008,
        edits=(Edit("store.fence:check_start", " or first != turn.message_id", ""),),
    ),
    Mutant(
        "serve the last message first",
        breaks="ORDER",
        seed=100000,
        edits=(
            Edit("hub.runner:SessionRunner.run", "popleft()", "pop()"),
            Edit("store.fence:check_start", " or first != turn.message_id", ""),
            Edit("hub.runner:SessionRunner._run_turn", "self._waiting[0].place < turn.place", "False"),
        ),
    ),
    # --- the end of a turn ---
    Mutant(
        "answer before the commit",
        breaks="DURABLE-FIRST",
        seed=100000,
        edits=(
            Edit(
                "hub.runner:SessionRunner._commit",
                "            ended = await",
                "            stream.finish(complete)\n            ended = await",
            ),
            Edit("hub.runner:SessionRunner._commit", "        stream.finish(complete)\n        del", "        del"),
        ),
    ),
    Mutant(
        "tell the worker before the commit",
        breaks="DURABLE-FIRST",
        seed=100000,
        edits=(
            Edit(
                "hub.runner:SessionRunner._commit",
                "            ended = await",
                ("            attempt.member.send(Committed(attempt.name))\n            ended = await"),
            ),
        ),
    ),
    Mutant(
        "guess that an unknown commit was made",
        breaks="DURABLE-FIRST",
        seed=1001,
        harm="disk fails",
        edits=(
            Edit(
                "hub.runner:SessionRunner._commit",
                "        except Fenced:",
                "        except StoreUnavailable:\n            ended = turn\n        except Fenced:",
            ),
            Edit(
                "hub.runner:SessionRunner._commit",
                "self._until_known(lambda: self._log.commit(commit))",
                "self._log.commit(commit)",
            ),
        ),
    ),
    Mutant(
        "guess that an unknown commit was not made",
        breaks="DURABLE-FIRST",
        seed=0,
        harm="disk fails",
        edits=(
            Edit(
                "hub.runner:SessionRunner._commit",
                "        except Fenced:",
                (
                    "        except StoreUnavailable as error:\n"
                    "            body = msgspec.convert(error.body(), ErrorBody)\n"
                    "            turn = msgspec.structs.replace(turn, status=TurnStatus.FAILED, error=body)\n"
                    '            self._stop_attempt("")\n'
                    "            self._tell_end(turn)\n"
                    "            return turn\n"
                    "        except Fenced:"
                ),
            ),
            Edit(
                "hub.runner:SessionRunner._commit",
                "self._until_known(lambda: self._log.commit(commit))",
                "self._log.commit(commit)",
            ),
        ),
    ),
    # --- the events of an attempt ---
    Mutant(
        "deliver an old attempt's event",
        breaks="ONE-STREAM",
        seed=100026,
        edits=(
            Edit(
                "hub.runner:SessionRunner.receive",
                " or attempt.name != frame.attempt",
                " or (attempt.name != frame.attempt and not isinstance(frame, Event | Pieces))",
            ),
        ),
    ),
    Mutant(
        "take an old attempt's result",
        breaks="L6",
        seed=100002,
        edits=(Edit("hub.runner:SessionRunner.receive", " or attempt.name != frame.attempt", ""),),
    ),
    Mutant(
        "take a frame from any worker",
        breaks="ONE-STREAM",
        seed=100002,
        edits=(
            Edit(
                "hub.runner:SessionRunner.receive",
                " or attempt.member is not member or attempt.name != frame.attempt",
                "",
            ),
        ),
    ),
    Mutant(
        "restart without saying so",
        breaks="ONE-STREAM",
        seed=100001,
        edits=(
            Edit(
                "hub.stream:TurnStream.restart",
                '            self._append("restarted", Restarted(reason=reason), index=0)',
                "            pass",
            ),
        ),
    ),
    Mutant(
        "keep a lost attempt's events",
        breaks="ONE-STREAM",
        seed=100002,
        edits=(Edit("hub.stream:TurnStream.restart", "del self._lines[1:], self._seqs[1:]", "pass"),),
    ),
    Mutant(
        "keep a lost attempt's texts",
        breaks="FINAL-AGREES",
        seed=100011,
        edits=(Edit("hub.stream:TurnStream.restart", "0, 0, []", "0, 0, self._texts"),),
    ),
    Mutant(
        "use the numbers of events again after a restart",
        breaks="ONE-STREAM",
        seed=100000,
        edits=(Edit("hub.stream:TurnStream.restart", "= start_number, 0, 0, []", "= 1, 0, 0, []"),),
    ),
    Mutant(
        "adopt an attempt whose epoch is not current",
        breaks="FENCED",
        seed=0,
        harm="exile",
        edits=(
            Edit(
                "hub.runner:SessionRunner.adopt",
                "(turn.message_id, turn.epoch) != (name.message_id, name.epoch)",
                "turn.message_id != name.message_id",
            ),
        ),
    ),
    # --- schemas ---
    Mutant(
        "send a session to a worker that does not serve its schema",
        breaks="no fault of ours",
        seed=100057,
        edits=(Edit("hub.fleet:Member.serves", "(schema is None or", "(True or"),),
    ),
    Mutant(
        "run a migration twice",
        breaks="no fault of ours",
        seed=0,
        harm="rollout",
        edits=(
            Edit("state.session:OpenSession._prepare", "schema.number > self._number", "schema.number > 1"),
            Edit("state.session:OpenSession._prepare", "after=self._number", "after=1"),
        ),
    ),
    Mutant(
        "skip a migration",
        breaks="no fault of ours",
        seed=0,
        harm="rollout",
        edits=(
            Edit(
                "state.session:OpenSession._prepare", "            schema.migrate(database, after=self._number)\n", ""
            ),
        ),
    ),
    Mutant(
        "forget that a migration ran",
        breaks="no fault of ours",
        seed=0,
        harm="rollout",
        edits=(Edit("state.session:OpenSession.commit", "self._number = turn.number", "pass"),),
    ),
    Mutant(
        "send snapshots for ever after a change of schema",
        breaks="L5",
        seed=0,
        harm="rollout",
        edits=(
            Edit(
                "state.session:OpenSession.commit",
                "            self._schema_version = self._database.schema_version\n",
                "",
            ),
        ),
    ),
    # --- the copy at the worker ---
    Mutant(
        "forget the rollback after a failure",
        breaks="no fault of ours",
        seed=100000,
        edits=(Edit("worker.runtime:Runtime._failed", "self._roll_back(attempt)", "pass"),),
    ),
    Mutant(
        "forget the rollback of a cancelled turn",
        breaks="EQUAL",
        seed=100022,
        edits=(Edit("worker.runtime:Runtime._cancel", "self._roll_back(attempt)", "pass"),),
    ),
    Mutant(
        "forget the rollback of a pending turn",
        breaks="no fault of ours",
        seed=100045,
        edits=(Edit("worker.runtime:_settle", "session.rollback()", "pass"),),
    ),
    Mutant(
        "roll back by committing",
        breaks="L4",
        seed=100000,
        edits=(Edit("state.session:OpenSession.rollback", "self._database.rollback()", "self._database.commit()"),),
    ),
    Mutant(
        "commit a pending turn that was not named",
        breaks="no fault of ours",
        seed=100045,
        edits=(Edit("worker.runtime:_settle", "resolution is Resolution.COMMIT", "True"),),
    ),
    Mutant(
        "keep a stale copy warm",
        breaks="no fault of ours",
        seed=100003,
        edits=(Edit("worker.resolve:resolve", "if committed == request.base:", "if committed is not None:"),),
    ),
    Mutant(
        "take an equal version for the same state",
        breaks="EXACT-BASE",
        seed=0,
        harm="strange request",
        edits=(
            Edit(
                "worker.resolve:resolve",
                "if pending == request.base:",
                "if pending is not None and pending.version == request.base.version:",
            ),
            Edit(
                "worker.resolve:resolve",
                "if committed == request.base:",
                "if committed is not None and committed.version == request.base.version:",
            ),
        ),
    ),
    Mutant(
        "accept a request of an earlier epoch",
        breaks="FENCED",
        seed=0,
        harm="late request",
        edits=(Edit("worker.runtime:Runtime._begin", "name.epoch <= epoch_seen", "False"),),
    ),
    Mutant(
        "do not wait for the older attempt",
        breaks="no fault of ours",
        seed=100003,
        edits=(Edit("worker.runtime:Runtime._run", "await attempt.older.has_released.wait()", "pass"),),
    ),
    # --- what must end ---
    Mutant(
        "never give a slot back",
        breaks="L6",
        seed=100000,
        edits=(Edit("hub.fleet:Fleet.vacate", "member.busy.discard(attempt)", "pass"),),
    ),
    Mutant(
        "never give a reserved slot back",
        breaks="L6",
        seed=100000,
        edits=(Edit("hub.fleet:Fleet.unreserve", "member.reserved -= 1", "pass"),),
    ),
    Mutant(
        "do not hear that a worker is lost",
        breaks="L2",
        seed=100015,
        edits=(Edit("hub.coordinator:Coordinator.leave", "self._lose(member)", "pass"),),
    ),
    Mutant(
        "keep a lost worker in the fleet",
        breaks="L2",
        seed=100002,
        edits=(Edit("hub.fleet:Fleet.leave", "del self._members[(member.tenant, member.worker_id)]", "pass"),),
    ),
    Mutant(
        "never lose a silent peer",
        breaks="L6",
        seed=0,
        harm="silence",
        edits=(Edit("protocol.link:Link.tick", "self._silent_ticks >= PINGS_LOST_MAX", "False"),),
    ),
    Mutant(
        "never end an attempt that runs too long",
        breaks="L1",
        seed=100000,
        edits=(Edit("hub.runner:SessionRunner._collect", "call_later(timeout_s,", "call_later(1e9,"),),
    ),
    Mutant(
        "do not stop the attempt of an ended turn",
        breaks="L6",
        seed=100001,
        edits=(
            Edit(
                "hub.runner:SessionRunner._stop_attempt",
                "attempt.member.send(Cancel(attempt.name, reason=reason))",
                "pass",
            ),
        ),
    ),
    # --- repeats and bounds ---
    Mutant(
        "drop the dedupe",
        breaks="DURABLE-FIRST",
        seed=100000,
        edits=(
            Edit(
                "store.admission:admit",
                "if known.status is not TurnStatus.FAILED:",
                "if known.status in {TurnStatus.QUEUED, TurnStatus.RUNNING}:",
            ),
            Edit(
                "log.sql:resend_turn",
                "place = :place, status = :status,",
                "status = :status, version = NULL, state_id = NULL,",
            ),
            Edit("log.sql:insert_events", "INSERT INTO", "INSERT OR REPLACE INTO"),
        ),
    ),
    Mutant(
        "accept a known message ID with another text",
        breaks="SAME-KEY-SAME-REQUEST",
        seed=100000,
        edits=(Edit("store.admission:admit", "known.request_digest != request_digest", "False"),),
    ),
    Mutant(
        "queue without a bound",
        breaks="BOUNDED",
        seed=100002,
        edits=(Edit("store.admission:admit", "busy.waiting >= queue_length_max", "False"),),
    ),
    Mutant(
        "start a message without a bound",
        breaks="POISON",
        seed=100004,
        edits=(
            Edit(
                "hub.runner:SessionRunner._is_exhausted",
                "return turn.starts - turn.starts_before >= ",
                "return False and ",
            ),
        ),
    ),
    Mutant(
        "put the attempt into the idempotency key",
        breaks="EFFECT-KEY",
        seed=100001,
        edits=(Edit("worker.context:Turn.idempotency_key", "{label}", "{label}{facts.attempt}"),),
    ),
    Mutant(
        "leave the message out of the idempotency key",
        breaks="EFFECT-KEY",
        seed=100000,
        edits=(Edit("worker.context:Turn.idempotency_key", "\\0{facts.message_id}", ""),),
    ),
    # --- chains, compaction, retention ---
    Mutant(
        "publish a snapshot of other rows",
        breaks="N-1",
        seed=100000,
        edits=(
            Edit("hub.compaction:compact", "links=links,", "links=links[:-1],"),
            Edit("hub.compaction:compact", "base=target.name,\n", "base=links[-2].name,\n"),
            Edit("hub.compaction:compact", "digest=target.digest,", "digest=None,"),
            Edit("store.fence:check_snapshot", " or digest not in {None, snapshot.digest}", ""),
        ),
    ),
    Mutant(
        "compact before verifying",
        breaks="N-1",
        seed=100008,
        edits=(
            Edit("hub.compaction:compact", "digest=target.digest,", "digest=None,"),
            Edit("store.fence:check_snapshot", " or digest not in {None, snapshot.digest}", ""),
        ),
    ),
    Mutant(
        "delete n-1",
        breaks="N-1",
        seed=100000,
        edits=(Edit("store.sqlite:SqliteLog._trim_chains", "max(retain_versions, 1)", "0"),),
    ),
    Mutant(
        "delete the old chain before a version is beyond the new one",
        breaks="N-1",
        seed=100000,
        edits=(Edit("log.sql:oldest_kept_base", " AND version <= :oldest", ""),),
    ),
    Mutant(
        "delete answers that are to be kept",
        breaks="L9",
        seed=100000,
        edits=(Edit("store.sqlite:SqliteLog._trim_answers", "max(retain_answers, 1)", "1"),),
    ),
    # --- the disk ---
    Mutant(
        "sync the log at times only",
        breaks="DURABLE-FIRST",
        seed=0,
        harm="power",
        edits=(Edit("store.files:_connect", '"synchronous", "full"', '"synchronous", "normal"'),),
    ),
    Mutant(
        "never sync",
        breaks="DURABLE-FIRST",
        seed=0,
        harm="power",
        edits=(Edit("store.files:_connect", '"synchronous", "full"', '"synchronous", "off"'),),
    ),
    Mutant(
        "apply a delta twice",
        breaks="L4",
        seed=100000,
        edits=(
            Edit(
                "state.delta:_apply",
                "            apsw.Changeset.apply(",
                "            for _ in (1, 2): apsw.Changeset.apply(",
            ),
        ),
    ),
    Mutant(
        "take a result unchecked",
        breaks="no fault of ours",
        seed=0,
        harm="damage",
        edits=(Edit("hub.runner:SessionRunner._end_of", "await check_result(signal, attempt.started)", "None"),),
    ),
    # --- links and the rest ---
    Mutant(
        "send a lost connection's frames on the next one",
        breaks="ONE-STREAM",
        seed=20,
        harm="exile",
        edits=(
            Edit(
                "worker.link:WorkerLink.lost",
                "        self._connection = None\n",
                "        self.kept, self._connection = self._connection, None\n",
            ),
            Edit(
                "worker.link:_Connection._receive",
                "self.was_registered = True",
                (
                    "self.was_registered = True\n"
                    '                kept = getattr(self._owner, "kept", None)\n'
                    "                for each in list(kept._given) if kept else ():\n"
                    "                    self._owner.send(each)"
                ),
            ),
        ),
    ),
    Mutant(
        "overlook a frame that cannot be read",
        breaks="ONE-STREAM",
        seed=1,
        harm="half a frame",
        edits=(
            Edit(
                "protocol.link:Link.receive",
                "            self._die(error.message)\n            raise",
                "            return []",
            ),
        ),
    ),
    Mutant(
        "let a frame overtake the chunks of its session",
        breaks="L6",
        seed=100022,
        edits=(Edit("protocol.chunks:Outbox.put", "if behind is not None:", "if False:"),),
    ),
    Mutant(
        "give no credit",
        breaks="L6",
        seed=100000,
        edits=(Edit("protocol.chunks:Inbox.credit_due", "2 * self._taken < limits.CREDIT_BYTES_MAX", "True"),),
    ),
    Mutant(
        "evict a copy that is in use",
        breaks="no fault of ours",
        seed=100001,
        edits=(Edit("worker.cache:WarmCache._make_room", "if session_id not in self._busy", "if True"),),
    ),
    Mutant(
        "leave unfinished turns to their callers after a restart",
        breaks="L3",
        seed=100001,
        edits=(Edit("hub.coordinator:Coordinator.open", "self._runner(turn.key).enqueue(turn)", "pass"),),
    ),
    Mutant(
        "put a lost turn behind the others",
        breaks="ORDER",
        seed=100000,
        edits=(Edit("log.sql:requeue_turn", "epoch = NULL", "epoch = NULL, place = place + 1000"),),
    ),
    Mutant(
        "requeue a turn that was ended",
        breaks="FENCED",
        seed=100000,
        edits=(
            Edit("store.sqlite:SqliteLog.requeue", "check_attempt(self._turn(db, key, message_id), epoch)", "pass"),
            Edit("log.sql:requeue_turn", "epoch = NULL", "epoch = NULL, finished_at_ms = NULL, version = NULL"),
        ),
    ),
    Mutant(
        "send deltas again to a worker that lacks the base",
        breaks="L4",
        seed=100000,
        edits=(Edit("hub.runner:SessionRunner._end_of", "self._forget_held(attempt, signal)", "pass"),),
    ),
    Mutant(
        "never compact",
        breaks="L8",
        seed=100007,
        edits=(Edit("hub.coordinator:Coordinator._is_compaction_due", "return is_due and", "return False and"),),
    ),
    Mutant(
        "open another session's copy",
        breaks="L6",
        seed=100003,
        edits=(
            Edit(
                "worker.cache:WarmCache.get",
                "return self._copies.get(session_id)",
                "return self._copies.get(session_id) or next(iter(self._copies.values()), None)",
            ),
        ),
    ),
    Mutant(
        "do not deliver a cancel to the handler",
        breaks="L6",
        seed=100002,
        edits=(Edit("worker.runtime:Runtime._cancel", "attempt.stop(FailureCode.CANCELLED)", "pass"),),
    ),
    Mutant(
        "do not raise the epoch at a cancel",
        breaks="FENCED",
        seed=100000,
        edits=(Edit("store.sqlite:SqliteLog._end", "int(turn.status is TurnStatus.RUNNING)", "0"),),
    ),
    Mutant(
        "do not raise the epoch at a start",
        breaks="FENCED",
        seed=100000,
        edits=(Edit("log.sql:touch_session", "epoch + :raised", "max(epoch, :raised)"),),
    ),
    Mutant(
        "give the epoch of a start that was never written again",
        breaks="L6",
        seed=100000,
        edits=(
            Edit("hub.runner:SessionRunner._start", "skip=EPOCHS_SKIPPED", "skip=0"),
            Edit("hub.coordinator:Coordinator._admit_seated", "skip=EPOCHS_SKIPPED", "skip=0"),
        ),
        harm="disk fails",
    ),
    Mutant(
        "let an attempt run on whose start was not written",
        breaks="L6",
        seed=300009,
        edits=(Edit("hub.coordinator:Coordinator._give_up", "runner.give_up()", "pass"),),
        harm="disk fails",
    ),
    Mutant(
        "forget events with the commit",
        breaks="L9",
        seed=100000,
        edits=(Edit("store.sqlite:SqliteLog._commit", "self._insert_events(db, commit, place=turn.place)", "pass"),),
    ),
    Mutant(
        "write the answer of another attempt",
        breaks="FINAL-AGREES",
        seed=100000,
        edits=(
            Edit(
                "store.sqlite:SqliteLog._insert_events",
                "events_bindings(commit)",
                "events_bindings(msgspec.structs.replace(commit, answer=commit.answer.replace('2', '1')))",
            ),
        ),
    ),
    Mutant(
        "do not send an adopted attempt's events again",
        breaks="ONE-STREAM",
        seed=100002,
        edits=(Edit("worker.events:AttemptEvents.send_again", "in self._events:", "in ():"),),
    ),
    Mutant(
        "open a state unverified",
        breaks="CHAIN",
        seed=1000,
        harm="rot",
        edits=(
            Edit("store.chain:_payload", "checksum(stored.payload.data) != stored.payload.checksum", "False"),
            Edit("state.payload:_check_sealed", "payload.checksum != checksum(payload.data)", "False"),
            Edit("store.sqlite_objects:SqliteObjects.get", "content_hash.digest() != name.content_hash", "False"),
            Edit(
                "state.session:_checked_delta",
                "if link.name != StateName(version, next_state_id(base.state_id, version, PayloadKind.DELTA, raw)):",
                "if False:",
            ),
        ),
    ),
    Mutant(
        "name an object before it is whole",
        breaks="no fault of ours",
        seed=0,
        harm="disk fails",
        edits=(
            Edit(
                "store.sqlite_objects:SqliteObjects.put",
                "await self._finish(name)",
                "asyncio.get_running_loop().create_task(self._finish(name))",
            ),
            Edit("store.sqlite:SqliteLog._require_objects", "not self._witness.holds(name)", "False"),
        ),
    ),
)

MUTANTS: Final = {mutant.name: mutant for mutant in _MUTANTS}
