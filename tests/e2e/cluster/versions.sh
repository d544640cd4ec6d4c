# shellcheck shell=bash disable=SC2034
# Every version that the local cluster and the images are made of, and nothing else.

KUBERNETES_VERSION=1.34.4
ETCD_VERSION=3.6.16
HELM_VERSION=4.3.1
COREDNS_VERSION=1.12.4
KWOK_VERSION=0.8.0
KAFKA_VERSION=4.3.1
KAFKA_SCALA_VERSION=2.13
LOG4J_VERSION=2.25.2

# Debian releases whose packages become root file systems.
BASE_SUITE=bookworm
BACKEND_SUITE=trixie
POSTGRES_MAJOR=17

# Tag of the backends' images; the images themselves are cached by the hash of their recipe.
BACKEND_TAG=local
