"""What counts against a cell or a block: its own failures; never the loss of the node it was on."""

from emray.cluster.attempts import VERDICT_S, Attempts, Cause, FailedTry
from emray.errors import StageError
from emray.generate.block_attempts import BlockAttempts, BlockTally


class World:
    """A clock and a set of nodes that a test moves."""

    def __init__(self, *nodes: str) -> None:
        self.now, self.nodes = 0.0, set(nodes)

    def ledger(self, *, most: int = 2) -> Attempts:
        return Attempts(most=most, nodes=lambda: self.nodes, clock=lambda: self.now)

    def blocks(self, *, most: int = 2) -> BlockAttempts:
        return BlockAttempts(most=most, nodes=lambda: self.nodes, clock=lambda: self.now)


def test_errors_and_deaths_on_live_nodes_count_and_lost_nodes_do_not():
    world = World("a", "b")
    ledger = world.ledger(most=3)
    for cause, node in [(Cause.ERROR, "a"), (Cause.WORKER_DIED, "a"), (Cause.WORKER_DIED, "b"), (Cause.NODE_LOST, "b")]:
        ledger.failed(0, FailedTry(cause, node))
    assert (ledger.tries(0), ledger.exhausted(0)) == (3, True)
    world.nodes = {"a"}
    assert (ledger.tries(0), ledger.exhausted(0)) == (2, False)
    assert (ledger.tries(1), ledger.exhausted(1), ledger.verdict_s(1)) == (0, False, 0.0)


def test_a_verdict_waits_for_deaths_alone_and_for_the_last_of_them():
    world = World("a")
    ledger = world.ledger()
    ledger.failed(0, FailedTry(Cause.ERROR, "a"))
    assert ledger.verdict_s(0) == 0.0
    ledger.failed(0, FailedTry(Cause.WORKER_DIED, "a"))
    world.now = 10.0
    assert ledger.verdict_s(0) == VERDICT_S - 10.0
    world.now = VERDICT_S + 1
    assert ledger.verdict_s(0) == 0.0


def test_a_death_before_its_node_could_be_told_counts_at_once():
    ledger = World("a").ledger()
    ledger.failed(0, FailedTry(Cause.WORKER_DIED, None))
    assert (ledger.tries(0), ledger.verdict_s(0)) == (1, 0.0)


# Blocks: an engine that is gone cannot say why.


def test_a_block_whose_engine_vanishes_with_its_node_is_repeated_for_ever():
    world = World("a")
    blocks = world.blocks(most=1)
    for number in range(20):
        attempt = blocks.begin(0, f"spot-{number}")
        assert (attempt.number, attempt.tries, attempt.exhausted, attempt.ask_again_s) == (number + 1, 0, False, 0.0)


def test_a_block_whose_engine_vanishes_on_a_live_node_is_given_up_once_that_is_sure():
    world = World("a")
    blocks = world.blocks(most=2)
    blocks.begin(0, "a")
    assert not blocks.begin(0, "a").exhausted
    early = blocks.begin(0, "a")
    assert (early.exhausted, early.ask_again_s, blocks.begun(0)) == (True, VERDICT_S, 2)
    world.now += early.ask_again_s
    sure = blocks.begin(0, "a")
    assert (sure.exhausted, sure.ask_again_s, sure.tries) == (True, 0.0, 2)


def test_a_node_that_turns_out_to_be_gone_gives_its_block_back():
    world = World("a", "b")
    blocks = world.blocks(most=1)
    blocks.begin(0, "a")
    early = blocks.begin(0, "b")
    assert early.exhausted
    world.now, world.nodes = early.ask_again_s, {"b"}
    assert blocks.begin(0, "b") == (2, None, False, 0, False, 0.0)


def test_what_an_engine_says_before_it_goes_counts_whatever_becomes_of_its_node():
    world = World("a")
    blocks = world.blocks(most=1)
    blocks.begin(0, "a")
    blocks.fail(0, StageError("out of memory"))
    world.nodes = {"b"}
    attempt = blocks.begin(0, "b")
    assert (attempt.exhausted, attempt.ask_again_s, str(attempt.last_failure)) == (True, 0.0, "out of memory")


def test_a_finished_block_that_ray_repeats_is_counted_once():
    blocks = World("a").blocks(most=1)
    for _ in range(3):
        assert not blocks.begin(0, "a").exhausted
        blocks.finish(0, BlockTally(num_answers=5, num_tokens=50))
    assert blocks.tally() == BlockTally(num_answers=5, num_tokens=50)
