"""A finished run in the forms that other tools read: `python -m emray.export RUN TARGET --to DIR`.

    table_files.py    every table as CSV and Parquet, with a data dictionary
    hub_dataset.py    answers, verdicts and tables as a data set folder of the Hugging Face hub
    inspect_log.py    answers and verdicts as logs of inspect_ai
    adapter_cards.py  PEFT adapters, each with its model card

Not for computing anything. The invariant: what is written holds what the run folder holds, and a folder that exists is
never written into.
"""

from emray.export.adapter_cards import export_adapters
from emray.export.hub_dataset import export_dataset
from emray.export.inspect_log import export_inspect
from emray.export.table_files import export_tables

TARGETS = {"tables": export_tables, "dataset": export_dataset, "adapters": export_adapters, "inspect": export_inspect}

__all__ = ["TARGETS", "export_adapters", "export_dataset", "export_inspect", "export_tables"]
