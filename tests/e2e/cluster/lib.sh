# shellcheck shell=bash disable=SC2034
# Functions and paths that all scripts of the local cluster and of the images share.
# Sourcing this file changes nothing.

CLUSTER_DIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
REPO_DIR="$(cd "$CLUSTER_DIR/../../.." && pwd)"
# shellcheck source-path=SCRIPTDIR source=versions.sh
source "$CLUSTER_DIR/versions.sh"

CACHE_DIR="${IOTPIPELINE_CACHE:-$HOME/.cache/iotpipeline}"
TOOLS_DIR="$CACHE_DIR/tools"
IMAGES_CACHE_DIR="$CACHE_DIR/images"
KUBERNETES_BIN="$TOOLS_DIR/kubernetes-$KUBERNETES_VERSION"
ETCD_BIN="$TOOLS_DIR/etcd-$ETCD_VERSION"
HELM_BIN="$TOOLS_DIR/helm-$HELM_VERSION"
COREDNS_BIN="$TOOLS_DIR/coredns-$COREDNS_VERSION"
KWOK_BIN="$TOOLS_DIR/kwok-$KWOK_VERSION"

# The node's /var and /run are directories of the state directory, so everything that its
# daemons write goes with it.
STATE_DIR="${IOTPIPELINE_STATE:-/var/lib/iotpipeline}"
NODE_VAR="$STATE_DIR/var"
NODE_RUN="$STATE_DIR/run"
NODE_CONFIG="$NODE_VAR/lib/kubernetes"
CONTAINERD_SOCKET="$NODE_RUN/containerd/containerd.sock"

# The machine and the node are joined by one pair of interfaces, and all addresses of the
# cluster are in one network that the machine reaches through it.
NODE_NAME=iotpipeline
NETWORK_NAMESPACE=iotpipeline
MACHINE_INTERFACE=iotpipeline0
CLUSTER_CIDR=10.213.0.0/16
MACHINE_ADDRESS=10.213.0.1
NODE_ADDRESS=10.213.0.2
SERVICE_CIDR=10.213.64.0/18
API_SERVICE_ADDRESS=10.213.64.1
DNS_SERVICE_ADDRESS=10.213.64.10
POD_CIDR=10.213.128.0/17
CGROUP_NAME=iotpipeline

# Users of the backends, and a namespace without pods for what they may present.
CLIENTS=(operator bridge processor outsider)
CLIENT_NAMESPACE=iot-secrets

die() {
  echo "error: $*" >&2
  exit 1
}

# step NAME COMMAND…: runs one named step of a longer job. Prints one line with the elapsed
# seconds; the command's output goes to a log, whose last line is shown every 20 seconds while
# it runs and whose tail is shown if it fails.
step() {
  local name="$1" began=$SECONDS log progress status
  shift
  log="$CACHE_DIR/log/${name//[^a-zA-Z0-9.]/-}.log"
  mkdir -p "$CACHE_DIR/log"
  show_progress "$name" "$log" &
  progress=$!
  # Not in a condition, which would let the command go on after an error.
  set +e
  (
    set -e
    "$@"
  ) >"$log" 2>&1
  status=$?
  set -e
  kill "$progress" 2>/dev/null || true
  wait "$progress" 2>/dev/null || true
  if ((status != 0)); then
    printf '%4ds  FAILED  %s\n' $((SECONDS - began)) "$name"
    { tail -n 30 "$log"; echo "The whole log: $log"; } >&2
    exit "$status"
  fi
  printf '%4ds  %s\n' $((SECONDS - began)) "$name"
}

# Waits by reading from a pipe that nobody writes to, because a `sleep` would outlive this.
show_progress() {
  local name="$1" log="$2" began=$SECONDS never
  exec {never}<> <(:)
  while kill -0 $$ 2>/dev/null; do
    read -r -t 1 -u "$never" || true
    if (((SECONDS - began) % 20 == 19)); then
      printf '       … %s, %ds: %s\n' "$name" $((SECONDS - began)) "$(tail -n 1 "$log" | tr -dc '[:print:]' | cut -c 1-100)"
    fi
  done
}

kubectl() {
  "$KUBERNETES_BIN/kubectl" --kubeconfig "$STATE_DIR/kubeconfig" "$@"
}

containerd_client() {
  ctr --address "$CONTAINERD_SOCKET" --namespace k8s.io "$@"
}

# The node runs while its first process does; process numbers are reused, start times are not.
node_is_running() {
  local pid started
  [[ -f $STATE_DIR/node.pid ]] || return 1
  read -r pid started <"$STATE_DIR/node.pid"
  [[ "$(start_time_of "$pid")" == "$started" ]]
}

start_time_of() {
  [[ -r /proc/$1/stat ]] && sed 's/.*) //' "/proc/$1/stat" | cut -d ' ' -f 20
}

# wait_for SECONDS COMMAND…: repeats the command until it succeeds or the time is over.
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS >= deadline)); then
      echo "timed out waiting for: $*" >&2
      "$@" >&2 || true
      return 1
    fi
    sleep 0.3
  done
}

# backend_image_name NAME: the image's name without its tag. It exists only inside the cluster.
backend_image_name() {
  echo "docker.io/iotpipeline-cluster/$1"
}

# hash_of PATH…: one hash over the contents of files and directories, independent of their dates.
hash_of() {
  local path
  for path in "$@"; do
    find "$path" -type f -print0 | sort -z | xargs -0 -r cat
  done | sha256sum | cut -c 1-16
}

# install_packages PACKAGE…: installs those Debian packages that are missing. Their services are
# kept from starting: the cluster runs its own and leaves the machine's alone.
install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' ||
      missing+=("$package")
  done
  ((${#missing[@]} == 0)) && return 0
  echo "installing ${missing[*]}"
  DEBIAN_FRONTEND=noninteractive without_starting_services apt_install "${missing[@]}"
}

apt_install() {
  apt-get install -y -q --no-install-recommends "$@" && return 0
  apt-get update -q
  apt-get install -y -q --no-install-recommends "$@"
}

# Package scripts ask policy-rc.d whether they may start a service; an existing policy is kept.
without_starting_services() {
  local policy=/usr/sbin/policy-rc.d status=0
  if [[ -e $policy ]]; then
    "$@"
    return
  fi
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  "$@" || status=$?
  rm -f "$policy"
  return "$status"
}
