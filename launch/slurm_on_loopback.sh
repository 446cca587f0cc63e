#!/bin/bash
# A real SLURM of one node on this machine, from Debian's packages, and a run of two tasks through sbatch on it. Needs root, for the packages and the daemons.
#
#   sudo launch/slurm_on_loopback.sh FOLDER        (FOLDER: new; logs, state and the run's workdir go there)
#
# Ends with 0 if the job completed and the two tasks wrote one log of all steps. The daemons are stopped again; the packages stay.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
mkdir "$1"
folder=$(cd "$1" && pwd)
python=$checkout/.venv/bin/python

command -v slurmctld slurmd sbatch munged >/dev/null || {
    apt-get update -qq
    # Debian's packages start their services at once, without a configuration: not here.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge
    rm /usr/sbin/policy-rc.d
}

# munge vouches for users between the daemons: its key, socket and log lie in the folder.
install -d -o munge -m 755 "$folder/munge"
dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 status=none
chown munge "$folder/munge/key" && chmod 400 "$folder/munge/key"
chmod a+x "$folder"
socket=$folder/munge/socket
runuser -u munge -- munged --key-file="$folder/munge/key" --socket="$socket" --pid-file="$folder/munge/pid" --seed-file="$folder/munge/seed" \
    --log-file="$folder/munge/log"

host=$(hostname -s)
cores=$(nproc)
mkdir "$folder/state" "$folder/spool"
cat >"$folder/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$folder/slurm.conf
stop() {
    for file in "$folder/slurmd.pid" "$folder/slurmctld.pid" "$folder/munge/pid"; do
        if [ -f "$file" ]; then kill "$(cat "$file")"; fi
    done
}
trap stop EXIT
slurmctld
slurmd
for _ in $(seq 60); do
    [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ] && break
    sleep 1
done
sinfo

cd "$checkout"
"$python" -c "import runpy; runpy.run_path('tests/train/nano.py')['write_studies'](__import__('pathlib').Path('$folder/store'))"
"$python" launch/slurm.py --out "$folder/job.sbatch" --nodes 1 --tasks-per-node 2 --cpus-per-task 1 --time 0:20:00 --python "$python" \
    -- pretrain --config tests/train/nano.py --workdir "$folder/workdir" --config.data.store="$folder/store" --config.steps=4 --config.mesh.data=2 \
    --config.objective.dino=0 --config.objective.ibot=0 --config.objective.koleo=0
code=0
JAX_PLATFORMS=cpu sbatch --wait --chdir="$folder" "$folder/job.sbatch" || code=$?
cat "$folder"/mmv-*.log
[ "$code" -eq 0 ] && [ "$(wc -l <"$folder/workdir/metrics.jsonl")" -eq 4 ]
echo "Two tasks, one run: $(wc -l <"$folder/workdir/metrics.jsonl") steps in $folder/workdir/metrics.jsonl"
