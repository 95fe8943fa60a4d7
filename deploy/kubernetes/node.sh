#!/usr/bin/env bash
# One pod of a training (train.yaml). Every pod serves ssh on port 2222, by the one key pair of the secret, which is
# client key and host key at once. Pod 0 waits for the others, writes DeepSpeed's hostfile, and runs the stages.
#   node.sh STAGE ...
set -euo pipefail

keys="${CATENA_KEYS:-/keys}" port=2222
mkdir -p "$HOME/.ssh"
chmod 700 "$HOME/.ssh"
install -m 600 "$keys/ssh-privatekey" "$HOME/.ssh/id"
install -m 600 "$keys/ssh-publickey" "$HOME/.ssh/authorized_keys"
echo "* $(cut -d' ' -f1,2 "$keys/ssh-publickey")" >"$HOME/.ssh/known_hosts"
cat >"$HOME/.ssh/config" <<TEXT
Host *
    Port $port
    IdentityFile $HOME/.ssh/id
    StrictHostKeyChecking yes
    ConnectTimeout 5
TEXT
chmod 600 "$HOME/.ssh/config"
cat >"$HOME/.ssh/sshd_config" <<TEXT
Port $port
HostKey $HOME/.ssh/id
AuthorizedKeysFile $HOME/.ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PidFile none
TEXT
sshd="$(command -v sshd || echo /usr/sbin/sshd)"
if [ "$JOB_COMPLETION_INDEX" != 0 ]; then
    exec "$sshd" -D -e -f "$HOME/.ssh/sshd_config"
fi
"$sshd" -D -e -f "$HOME/.ssh/sshd_config" &

hosts=()
for ((index = 0; index < CATENA_NODES; index++)); do
    hosts+=("catena-train-$index.catena-train")
done
end=$((SECONDS + 900))
for host in "${hosts[@]}"; do
    until ssh "$host" true 2>/dev/null; do
        [ $SECONDS -lt $end ] || { echo "error: $host did not answer within 15 minutes" >&2; exit 1; }
        sleep 2
    done
done
printf "%s slots=$CATENA_RANKS\n" "${hosts[@]}" >"$CATENA_HOSTFILE"
ln -sfn /opt/catena/.venv .venv
read -ra command <<<"$CATENA_RUN"
"${command[@]}" repro "$@"
