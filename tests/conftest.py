"""Every test runs without a hub, and files that take minutes begin first, so that none is left to run alone."""

import os
from collections.abc import Sequence

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

# Measured: whole commands, killed and run again, clusters, engines. The rest takes seconds.
_LONG = (
    "test_sweep_resume", "test_train_tune", "test_sweep_bucket", "test_cluster_autoscaling", "test_sweep_signals",
    "test_generate_vllm", "test_judge_batches", "test_judge_stage", "test_stages_fruitless", "test_generate_endpoint",
    "test_localapi_server", "test_report_pages", "test_judge_options", "test_endpoint_asker", "test_endpoint_manners",
    "test_generate_transformers", "test_report_browser", "test_probes_steering", "test_disk", "test_chaos",
    "test_sweep_probes", "test_report_probes", "test_sweep_encrypted", "test_hosted_jobs", "test_toy_interventions",
    "test_readme",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _turn(item, _LONG))


def _turn(item: pytest.Item, order: Sequence[str]) -> int:
    """Place of an item's file among those that begin first; all others after them, as they were."""
    name = item.path.stem
    return order.index(name) if name in order else len(order)
