# What there is to do here. Each target calls one script or tool, which says what it does.
.DEFAULT_GOAL := help
.PHONY: help demo demo-down test test-unit test-timescale faults bench scale lint fmt generate images cluster cluster-down cluster-status

CLUSTER := tests/e2e/cluster

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## from nothing to rows: the local cluster, the operator, a pipeline and 200 devices
	tests/e2e/demo

demo-down: ## take the demo and its cluster down; only the cache of built tools stays
	$(CLUSTER)/down

test: ## run all tests: unit, fuzz, integration and end-to-end, on a local cluster
	scripts/test

test-unit: ## run the tests that need nothing but the compiler
	scripts/test unit

test-timescale: ## run the tests of both editions of TimescaleDB alone, on a local cluster
	scripts/test timescale

faults: ## let one thing after the other go wrong under load, and count what is lost or twice (docs/delivery.md)
	scripts/faults

bench: ## measure the workers' speed on a local cluster, beside psql's COPY (docs/benchmarks.md)
	scripts/bench

scale: ## compare the autoscaling policy with others in a simulation, then let a load step be followed on a local cluster (docs/scaling.md)
	scripts/scale

lint: ## check format, lints, dependencies, scripts, the chart and generated files
	scripts/lint

fmt: ## format the Rust code
	cargo fmt --all

generate: ## write what is generated: the resource definition and what the chart renders
	scripts/generate

images: ## build the operator's and worker's images: target/images/{operator,worker}.tar
	scripts/build operator worker && images/build

cluster: ## bring up a local cluster with Kafka, TimescaleDB and Mosquitto
	$(CLUSTER)/up

cluster-down: ## take the local cluster down without a trace
	$(CLUSTER)/down

cluster-status: ## tell whether the local cluster is up, and its pods
	$(CLUSTER)/status
