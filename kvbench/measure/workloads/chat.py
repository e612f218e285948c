"""The workload `chat`: a conversation, turn by turn, with or without what is in the cache already.

The history only grows: the message of a turn comes after the reply of the turn before. Without
reuse each turn puts the whole history through the model. A cache that is kept holds all of it but
the last token of the reply, which was never fed, so a turn feeds that token and the message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from kvbench.caches import BASELINE, strategy
from kvbench.measure.generate import Generation, generate
from kvbench.measure.kept import Kept
from kvbench.measure.open_model import OpenModel
from kvbench.measure.outcome import outcome_of
from kvbench.measure.workloads.job import Attempt, OpenJob
from kvbench.methods import Job, JobResult
from kvbench.methods.each import EACH
from kvbench.models.conversations import message_ids
from kvbench.models.prompts import Inputs
from kvbench.plan.case import Case, Prompt, Task
from kvbench.workloads import workload

__all__ = ["History", "context_of", "run"]


def run(opened: OpenJob) -> JobResult:
    """Play a conversation up to the last turn of the job; the turns before a failure are results.

    A turn that is not a task of the job, as in a warm-up, is played all the same.
    """
    turns: list[JobResult] = []
    for result in _played(opened):
        turns.append(result)
        if result.status != "ok":
            break
    return replace(turns[-1], turns=tuple(turns))


def _played(opened: OpenJob) -> Iterator[JobResult]:
    task = opened.job.task
    history: History | None = None
    for number in range(1, task.case.turn + 1):
        attempt = opened.attempt()
        # The row of each turn has the flags of its own case.
        here = replace(task, case=replace(task.case, turn=number))
        try:
            attempt.reach("load")
            if history is None:
                opened.model.check_case(here.case)
                history = History.of(opened.model, here.case, task.new_tokens, task.case.turn)
            result = _take_turn(opened.model, here, attempt, history)
        except Exception as error:
            # As for a single generation: whatever a model raises is the failure of this turn.
            result = attempt.failed(opened.classify(error))
        yield result


def _take_turn(model: OpenModel, task: Task, attempt: Attempt, history: History) -> JobResult:
    inputs = history.next_inputs()
    attempt.fields["prompt_tokens"] = inputs.tokens
    attempt.fields["cached_positions"] = history.kept.positions if history.kept else 0
    attempt.fields |= model.past_positions(task.case, inputs)
    attempt.reach("prefill")
    observed = model.run(Job((task,), EACH.name), inputs, attempt.clock, history.kept)
    history.add(observed.taken.generation.new_ids)
    return outcome_of(model.loaded, task, attempt.started_at, attempt.fields, observed)


@dataclass
class History:
    """A conversation so far.

    Attributes:
        messages: the ids of the message of each turn, `[batch, tokens]`.
        kept: the cache that is kept from turn to turn; None if there is none.
        ids: everything so far, `[batch, positions]`.
        turn: how many turns are complete.
    """

    messages: tuple[torch.Tensor, ...]
    kept: Kept | None
    ids: torch.Tensor = field(init=False)
    turn: int = 0

    def __post_init__(self) -> None:
        self.ids = self.messages[0][:, :0]

    @classmethod
    def of(cls, model: OpenModel, case: Case, reply: int, turns: int) -> History:
        """Return the start of a conversation of a case.

        Args:
            model: the open model.
            case: what is measured.
            reply: new tokens of each reply.
            turns: how many turns will be played.

        Raises:
            UserError: the model has no tokenizer for the messages.
        """
        messages = messages_of(model, case)[:turns]
        # The last new token is never fed.
        room = sum(one.shape[1] for one in messages) + turns * reply - 1
        return cls(messages, Kept(room) if case.reuse == "conversation" else None)

    def next_inputs(self) -> Inputs:
        """Return the history with the next message."""
        ids = torch.cat([self.ids, self.messages[self.turn]], dim=1)
        return Inputs(ids, torch.ones_like(ids))

    def add(self, reply: torch.Tensor) -> None:
        """Add the next message and its reply, `[batch, new tokens]`."""
        self.ids = torch.cat([self.ids, self.messages[self.turn], reply], dim=1)
        self.turn += 1


def messages_of(model: OpenModel, case: Case) -> tuple[torch.Tensor, ...]:
    """Return the ids of the message of each turn, `[batch, tokens]`.

    Raises:
        UserError: the messages are texts, and the model has no tokenizer.
    """
    settings = workload(case.workload).settings
    if case.prompt.texts:
        turns = message_ids(model.encoder, case.prompt.texts[0])
        rows = (torch.tensor([ids], device=model.loaded.device) for ids in turns)
        return tuple(row.expand(case.batch_size, -1) for row in rows)
    user, count = int(settings["user"]), int(settings["turns"])
    ids = model.encoder.encode(Prompt.of_tokens(user * count), case.batch_size).input_ids
    return tuple(ids[:, start : start + user] for start in range(0, user * count, user))


def context_of(model: OpenModel, case: Case) -> tuple[Inputs, int]:
    """Return the input of a turn without a cache before it, and how much of it would be kept.

    The replies are those of the model without a cache.

    Raises:
        UserError: the model has no tokenizer for the messages.
    """
    history = History.of(model, replace(case, reuse="none"), case.max_new_tokens, case.turn)
    for _ in range(1, case.turn):
        history.add(_reply(model, history.next_inputs(), case.max_new_tokens).new_ids)
    kept = history.ids.shape[1] - 1 if case.reuse == "conversation" else 0
    return history.next_inputs(), max(kept, 0)


def _reply(model: OpenModel, inputs: Inputs, new_tokens: int) -> Generation:
    options: dict[str, Any] = {"clock": None, "synchronise": model.meter.synchronise}
    return generate(model.loaded, inputs, strategy(BASELINE), new_tokens, **options)
