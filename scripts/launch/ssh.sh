#!/usr/bin/env bash
# One program on every host, by ssh: bash THIS HOST HOST ... The first one is process 0; all must see the same folder.
set -euo pipefail
hosts=("$$@")
if [ $${#hosts[@]} = 0 ]; then
  echo "usage: bash $$0 HOST [HOST ...]" >&2
  exit 2
fi
processes=()
# Whichever ends first with an error ends all: JAX could not go on without it.
trap 'kill "$${processes[@]}" 2>/dev/null || true' EXIT
for index in "$${!hosts[@]}"; do
  ssh "$${hosts[$$index]}" "cd $folder && JAX_COORDINATOR_ADDRESS=$${hosts[0]}:$port \
    JAX_NUM_PROCESSES=$${#hosts[@]} JAX_PROCESS_ID=$$index bash -c "$command_twice &
  processes+=($$!)
done
for _ in "$${processes[@]}"; do
  wait -n
done
