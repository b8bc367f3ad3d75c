"""An endpoint's batch API: half the price, an answer within a day.

    transport.py    requests in, answers out: the door for whoever asks
    rounds.py       batches, and batches of what they left, until every request is decided
    sending.py      requests on their way through batches: what is submitted when, what came back
    submission.py   a batch as the run folder knows it
    service.py      the endpoint's files and batches
    lines.py        the lines of a batch's files
    room.py         how many tokens an account may have in unfinished batches

Not for one request at a time (endpoint/asker.py). The invariant: no line is served twice, whatever dies when.
"""
