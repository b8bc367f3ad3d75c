"""What a sweep file and a cluster mean together: GPUs asked for where there are or may be any, and doubt refused."""

import math
import pickle
from pathlib import Path

import pytest
import yaml

from emray.cluster.hardware import Hardware, decide, device_here
from emray.cluster.supply import Autoscaler, ClusterLimits, NodeKind, Supply, limits_of
from emray.errors import EmrayError, SpecError
from emray.spec import ResourcesSpec

LARGE, SMALL = 7.6e9, 0.8e6
HEAD = {"CPU": 8.0}
L40S = {"CPU": 48.0, "GPU": 4.0, "accelerator_type:L40S": 1.0}
H100 = {"CPU": 96.0, "GPU": 8.0, "accelerator_type:H100": 1.0}

LAPTOP = Supply((HEAD,), ClusterLimits((), Autoscaler.NONE))
WORKSTATION = Supply((L40S,), ClusterLimits((), Autoscaler.NONE))
GROWING = Supply((HEAD,), ClusterLimits((NodeKind(HEAD, 1), NodeKind(L40S, 4)), Autoscaler.READ))
GROWING_CPUS = Supply((HEAD,), ClusterLimits((NodeKind(HEAD, 1), NodeKind({"CPU": 16}, 4)), Autoscaler.READ))
MIXED = Supply((HEAD, L40S), ClusterLimits((NodeKind(L40S, 4), NodeKind(H100, 2)), Autoscaler.READ))
OPAQUE = Supply((HEAD,), ClusterLimits((), Autoscaler.UNKNOWN))


def declared(supply: Supply, *, parameters: float = LARGE, **resources: object) -> Hardware:
    return decide(ResourcesSpec.model_validate(resources), parameters=parameters, supply=supply)


def test_auto_means_gpus_where_an_autoscaler_can_start_them_though_none_is_there():
    hardware = declared(GROWING, parameters=SMALL)
    assert hardware == Hardware(True, None, ("L40S",), 16, 8 + 4 * 48)
    assert hardware.demand(1) == {"GPU": 1}
    assert hardware.demand(0) == {}


def test_auto_means_gpus_where_there_are_some():
    assert declared(WORKSTATION) == Hardware(True, None, ("L40S",), 4, 48)


@pytest.mark.parametrize("supply", [LAPTOP, GROWING_CPUS, OPAQUE])
def test_auto_means_a_cpu_for_a_small_model_where_no_gpu_is_in_sight(supply):
    hardware = declared(supply, parameters=SMALL)
    assert (hardware.gpu, hardware.max_gpus, hardware.demand(1 if hardware.gpu else 0)) == (False, 0, {})


@pytest.mark.parametrize("supply", [LAPTOP, GROWING_CPUS, OPAQUE])
@pytest.mark.parametrize("parameters", [LARGE, math.nan])
def test_auto_never_puts_a_model_that_may_be_large_on_a_cpu(supply, parameters):
    with pytest.raises(SpecError, match=r"(?s)^[^\n]*resources.accelerator to [^\n]*$"):
        declared(supply, parameters=parameters)


@pytest.mark.parametrize("supply", [LAPTOP, WORKSTATION, GROWING, OPAQUE])
def test_cpu_means_a_cpu_everywhere_and_for_every_model(supply):
    assert declared(supply, accelerator="cpu").demand(0) == {}
    assert not declared(supply, accelerator="cpu").gpu


@pytest.mark.parametrize("supply", [LAPTOP, GROWING_CPUS])
def test_gpu_is_refused_where_none_can_come(supply):
    with pytest.raises(SpecError, match="accelerator: gpu, but this cluster has no GPU"):
        declared(supply, parameters=SMALL, accelerator="gpu")
    with pytest.raises(SpecError, match="accelerator: gpu, but this cluster has no GPU"):
        declared(supply, parameters=SMALL, gpus_per_trial=0.5)


def test_gpu_is_taken_at_its_word_where_the_autoscaler_cannot_be_read():
    hardware = declared(OPAQUE, accelerator="gpu")
    assert hardware.gpu
    assert hardware.max_gpus >= 1


def test_a_type_counts_the_nodes_that_have_it_and_asks_for_no_others():
    hardware = declared(MIXED, accelerator="h100")
    assert (hardware.accelerator, hardware.types, hardware.max_gpus) == ("H100", ("H100",), 16)
    assert hardware.demand(2) == {"GPU": 2, "accelerator_type:H100": 0.001}
    assert declared(MIXED).types == ("H100", "L40S")
    assert declared(OPAQUE, accelerator="h100").demand(1) == {"GPU": 1, "accelerator_type:H100": 0.001}


@pytest.mark.parametrize(("supply", "there"), [(GROWING, "L40S"), (LAPTOP, "none of a known type")])
def test_a_type_that_nobody_has_is_refused_with_those_there_are(supply, there):
    with pytest.raises(SpecError, match=f"no node has 'A100'; this cluster's GPUs: {there}"):
        declared(supply, accelerator="A100")


def test_a_cpu_with_gpus_contradicts_itself():
    with pytest.raises(ValueError, match="contradicts accelerator: cpu"):
        ResourcesSpec(accelerator="cpu", gpus_per_trial=1)


def test_hardware_survives_pickling():
    hardware = declared(MIXED, accelerator="H100")
    assert pickle.loads(pickle.dumps(hardware)) == hardware


# What cluster.yaml comes to on the head node, once AWS has told what its instance types have.


def test_our_own_cluster_file_means_sixteen_gpus_that_are_not_there_yet():
    config = yaml.safe_load((Path(__file__).parent.parent / "cluster.yaml").read_text())
    config["available_node_types"]["head"]["resources"] = {"CPU": 8}
    assert limits_of(config).autoscaler == Autoscaler.UNKNOWN  # a node type of which nothing is known
    config["available_node_types"]["gpu"]["resources"] = L40S
    supply = Supply((HEAD,), limits_of(config))
    assert supply.limits.autoscaler == Autoscaler.READ
    assert declared(supply).max_gpus == 16


def test_workers_are_at_most_as_many_as_the_whole_cluster_may_have():
    kinds = {"head": {"resources": HEAD}, "gpu": {"resources": L40S, "max_workers": 100}, "off": {"max_workers": 0}}
    limits = limits_of({"max_workers": 3, "head_node_type": "head", "available_node_types": kinds})
    assert Supply((), limits).most("GPU") == 12
    assert Supply((), limits).most("CPU") == 8 + 3 * 48


def test_a_worker_that_was_given_a_gpu_and_sees_none_refuses(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("RAY_FAKE_CLUSTER", raising=False)
    with pytest.raises(EmrayError, match=r"was given a GPU, but torch .* sees none there") as refusal:
        device_here(gpu=True)
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)
    assert device_here(gpu=False) == "cpu"


def test_a_worker_that_was_given_no_gpu_takes_none(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device_here(gpu=False) == "cpu"
    assert device_here(gpu=True) == "cuda"
