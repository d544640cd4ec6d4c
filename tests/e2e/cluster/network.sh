# shellcheck shell=bash
# The node's network namespace and what the machine needs to reach it.

# What is there already belongs to somebody else, and `down` must never remove that.
check_network_is_free() {
  if [[ -e /run/netns/$NETWORK_NAMESPACE || -e /sys/class/net/$MACHINE_INTERFACE ]]; then
    die "network namespace $NETWORK_NAMESPACE or interface $MACHINE_INTERFACE exists: is another cluster up, with another IOTPIPELINE_STATE?"
  fi
  if [[ -n "$(ip route show "$CLUSTER_CIDR")" ]]; then
    die "the machine has a route to $CLUSTER_CIDR already, which the cluster would use"
  fi
}

create_network() {
  ip netns add "$NETWORK_NAMESPACE"
  ip link add "$MACHINE_INTERFACE" type veth peer name eth0 netns "$NETWORK_NAMESPACE"
  ip address add "$MACHINE_ADDRESS/30" dev "$MACHINE_INTERFACE"
  ip link set "$MACHINE_INTERFACE" up
  ip -n "$NETWORK_NAMESPACE" link set lo up
  ip -n "$NETWORK_NAMESPACE" address add "$NODE_ADDRESS/30" dev eth0
  ip -n "$NETWORK_NAMESPACE" link set eth0 up
  # Service addresses are translated before they are routed, but only if there is some route.
  ip -n "$NETWORK_NAMESPACE" route add "$SERVICE_CIDR" dev eth0 src "$NODE_ADDRESS"
  ip route add "$CLUSTER_CIDR" via "$NODE_ADDRESS" dev "$MACHINE_INTERFACE"
  name_resolution
}

# `ip netns exec` shows this directory's files as /etc to what it runs.
name_resolution() {
  mkdir -p "/etc/netns/$NETWORK_NAMESPACE"
  printf '%s\n' "nameserver $DNS_SERVICE_ADDRESS" 'search svc.cluster.local cluster.local' \
    'options ndots:5 timeout:2' >"/etc/netns/$NETWORK_NAMESPACE/resolv.conf"
}

remove_network() {
  ip link delete "$MACHINE_INTERFACE" 2>/dev/null || true
  ip netns delete "$NETWORK_NAMESPACE" 2>/dev/null || true
  rm -rf "/etc/netns/${NETWORK_NAMESPACE:?}"
  rmdir /etc/netns 2>/dev/null || true
}
