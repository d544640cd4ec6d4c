# shellcheck shell=bash
# The control group below which the kubelet keeps all pods, in both versions of the hierarchy.

create_cgroups() {
  local hierarchy
  if is_unified; then
    # Controllers reach a group only if its parent hands them down.
    tr ' ' '\n' <"$(cgroup_mount)/cgroup.controllers" | while read -r controller; do
      echo "+$controller" >"$(cgroup_mount)/cgroup.subtree_control" 2>/dev/null || true
    done
  fi
  while read -r hierarchy; do
    mkdir -p "$hierarchy/$CGROUP_NAME"
  done < <(cgroup_hierarchies)
}

# Groups can be removed from the leaves up, once their last process is gone.
remove_cgroups() {
  local hierarchy status=0
  while read -r hierarchy; do
    [[ -d $hierarchy/$CGROUP_NAME ]] || continue
    find "$hierarchy/$CGROUP_NAME" -depth -type d -exec rmdir {} + || status=1
  done < <(cgroup_hierarchies)
  return "$status"
}

is_unified() {
  [[ -f $(cgroup_mount)/cgroup.controllers ]]
}

cgroup_mount() {
  echo /sys/fs/cgroup
}

cgroup_hierarchies() {
  if is_unified; then
    cgroup_mount
  else
    awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/self/mounts
  fi
}
