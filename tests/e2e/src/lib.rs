//! What the end-to-end tests and the demo are made of: a simulated fleet of devices, and a harness around a
//! real cluster with Kafka, TimescaleDB and Mosquitto.

pub mod fleet;
