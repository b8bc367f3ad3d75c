#!/bin/bash
# A sweep on a Slurm cluster: sbatch clusters/slurm.sh sweeps/paper.yaml --out /shared/runs/paper
#
# Submit it again, with more --nodes or fewer, and it goes on where it was; so does Slurm by itself after a lost node or a
# preemption (--requeue). Run it from a clone in a folder that all nodes share, installed with
# `make install LOCK=requirements.gpu.lock`. Ray's ports are on the cluster's own network, where other users are: they ask
# for a token that only this user can read, and speak TLS with certificates that live as long as the job.
#SBATCH --job-name=emray
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=emray-%j.log
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: sbatch clusters/slurm.sh SWEEP [OPTION...]" >&2; exit 2; }
cd "${SLURM_SUBMIT_DIR:?run it by sbatch}"
export PATH="$PWD/.venv/bin:$PATH" RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
[ -s ~/.ray/auth_token ] || ray get-auth-token --generate > /dev/null
chmod 600 ~/.ray/auth_token

secrets=$(mktemp -d "$HOME/.emray-$SLURM_JOB_ID-XXXXXX")   # readable by this user alone, and on every node
trap 'rm -rf "$secrets"' EXIT
own_address='from ray.util import get_node_ip_address; print(get_node_ip_address())'
mapfile -t addresses < <(srun --ntasks-per-node=1 python -c "$own_address" | sort -u)
TLS_FOLDER="$secrets" sh clusters/certificates.sh "${addresses[@]}"
export RAY_USE_TLS=1 RAY_TLS_CA_CERT="$secrets/authority.crt"
export RAY_TLS_SERVER_CERT="$secrets/node.crt" RAY_TLS_SERVER_KEY="$secrets/node.secret"

port=$((20000 + SLURM_JOB_ID % 20000))   # two jobs on one node do not meet
# Ray starts on every node and the command on the first address's; all of it ends with the command.
srun --ntasks-per-node=1 --kill-on-bad-exit=1 \
    ray symmetric-run --address "${addresses[0]}:$port" --min-nodes "$SLURM_NNODES" -- \
    python -m emray.sweep "$@" --address "${addresses[0]}:$port"
