#!/bin/bash
# Rendered by launch/tpu_vm.py. Run it again after an interruption: what is there is kept, and the run goes on from its last checkpoint.
set -euo pipefail
name={{ name | quote }}
zone={{ zone | quote }}
nfs={{ nfs | quote }}
words={{ words | quote }} # of the mmv command

# The slice: queued, so that it is made when there is room.
if ! gcloud compute tpus queued-resources describe "$name" --zone="$zone" >/dev/null 2>&1; then
    gcloud compute tpus queued-resources create "$name" --node-id="$name" --zone="$zone" \
        --accelerator-type={{ tpu.accelerator_type }} --runtime-version={{ tpu.generation.runtime }}{{ " --spot" if spot }}
fi
while true; do
    state=$(gcloud compute tpus queued-resources describe "$name" --zone="$zone" --format='value(state.state)')
    case "$state" in
    ACTIVE) break ;;
    FAILED | SUSPENDING | SUSPENDED | DELETING)
        echo "The slice $name will not come: its state is $state. What is written of it:" >&2
        gcloud compute tpus queued-resources describe "$name" --zone="$zone" --format='value(state)' >&2
        echo "Delete it (gcloud compute tpus queued-resources delete $name --zone=$zone --force), then run this script again." >&2
        exit 1
        ;;
    esac
    sleep 60
done

# This checkout, on every host.
git archive --format=tar.gz --output="/tmp/$name.tar.gz" HEAD
gcloud compute tpus tpu-vm scp "/tmp/$name.tar.gz" "$name:mmv.tar.gz" --zone="$zone" --worker=all
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command='
    set -e
    mkdir -p mmv && tar -xzf mmv.tar.gz -C mmv && cd mmv
    if [ ! -d .venv ]; then # the python3 of these images is older than 3.11
        command -v python3.11 >/dev/null || { sudo apt-get update -qq && sudo apt-get install -y -qq python3.11 python3.11-venv; }
        python3.11 -m venv .venv
    fi
    .venv/bin/pip install --quiet -c requirements.lock -e ".[tpu,cloud]"'

# One folder that all hosts see and may write, for the workdir.
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
    mountpoint -q /mnt/shared && exit
    sudo apt-get update -qq && sudo apt-get install -y -qq nfs-common
    sudo mkdir -p /mnt/shared && sudo mount -t nfs '$nfs' /mnt/shared && sudo chmod a+rwx /mnt/shared"

{% if stage %}
# The store goes to each host's own disk first; what is there already is not copied again.
stage={{ stage | quote }}
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="cd mmv && .venv/bin/mmv $stage"

{% endif %}
# The same command on all of them: JAX finds the other hosts by itself.
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="cd mmv && .venv/bin/mmv $words"
echo "Done. The slice is still there, and costs: gcloud compute tpus queued-resources delete $name --zone=$zone --force"
