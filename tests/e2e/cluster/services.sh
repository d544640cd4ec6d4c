# shellcheck shell=bash
# Tells tests where the cluster's services are, and how to come in.

# export_services DATABASE DIRECTORY: sets the variables that the integration tests read, of which
# some name files in the directory. Nothing else may read it, and the caller removes it.
export_services() {
  local database="$1" directory="$2" superuser
  superuser="postgres:$(secret timescaledb credentials postgres-password)"
  "$CLUSTER_DIR/secrets-to" "$directory" || return
  export IOTPIPELINE_TEST_SECRETS="$directory"
  export IOTPIPELINE_TEST_KAFKA=kafka.kafka:9092
  export IOTPIPELINE_TEST_KAFKA_CERTIFICATE=kafka.kafka:9094
  export IOTPIPELINE_TEST_KAFKA_SASL_TLS=kafka.kafka:9095
  export IOTPIPELINE_TEST_KAFKA_SASL=kafka.kafka:9096
  export IOTPIPELINE_TEST_KAFKA_TLS=kafka.kafka:9097
  export IOTPIPELINE_TEST_MQTT=mosquitto.mqtt:1883
  export IOTPIPELINE_TEST_MQTT_TLS=mosquitto.mqtt:8883
  export IOTPIPELINE_TEST_MQTT_CERTIFICATE=mosquitto.mqtt:8884
  export IOTPIPELINE_TEST_MQTT_WS=mosquitto.mqtt:8083
  export IOTPIPELINE_TEST_MQTT_WSS=mosquitto.mqtt:8084
  IOTPIPELINE_TEST_MQTT_USERNAME="$(secret iot-demo mqtt-user username)"
  IOTPIPELINE_TEST_MQTT_PASSWORD="$(secret iot-demo mqtt-user password)"
  export IOTPIPELINE_TEST_MQTT_USERNAME IOTPIPELINE_TEST_MQTT_PASSWORD
  export IOTPIPELINE_TEST_TIMESCALE="postgres://$superuser@timescaledb.timescaledb:5432/$database"
  export IOTPIPELINE_TEST_PGBOUNCER="postgres://$superuser@pgbouncer.timescaledb:6432/$database"
}

# secret NAMESPACE NAME KEY
secret() {
  kubectl get secret --namespace "$1" "$2" --output "jsonpath={.data.$3}" | base64 --decode
}
