# shellcheck shell=bash
# Makes certificates for the cluster's backends and their clients. Functions here write into the
# current directory, which enter_private_directory makes and removes.

VALID_DAYS=3650

# authority NAME COMMON_NAME: makes NAME.crt and NAME.key.
authority() {
  new_key "$1"
  openssl req -new -x509 -key "$1.key" -subj "/CN=$2" -days "$VALID_DAYS" -out "$1.crt" \
    -addext keyUsage=critical,keyCertSign,cRLSign
}

# sign NAME COMMON_NAME AUTHORITY EXTENSION…: makes NAME.crt and NAME.key, signed by AUTHORITY.
sign() {
  local name="$1" common_name="$2" authority="$3"
  shift 3
  new_key "$name"
  openssl req -new -key "$name.key" -subj "/CN=$common_name" |
    openssl x509 -req -CA "$authority.crt" -CAkey "$authority.key" -CAcreateserial -days "$VALID_DAYS" -out "$name.crt" \
      -extfile <(printf '%s\n' basicConstraints=critical,CA:false "$@")
}

sign_client() {
  sign "$1" "$2" "$3" extendedKeyUsage=clientAuth
}

# sign_server NAME SERVICE NAMESPACE AUTHORITY: for each name that the Service has.
sign_server() {
  local name="$1" host="$2.$3" authority="$4"
  sign "$name" "$host.svc" "$authority" extendedKeyUsage=serverAuth \
    "subjectAltName=DNS:$host,DNS:$host.svc,DNS:$host.svc.cluster.local"
}

new_key() {
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"
}

# server_secret NAME NAMESPACE SECRET AUTHORITY: a Secret of a server's NAME.crt and NAME.key. Java
# wants both in one file.
server_secret() {
  cat "$1.key" "$1.crt" >"$1.pem"
  file_secret "$2" "$3" tls.crt "$1.crt" tls.key "$1.key" keystore.pem "$1.pem" ca.crt "$4.crt"
}

# file_secret NAMESPACE NAME KEY FILE…
file_secret() {
  local namespace="$1" name="$2" arguments=()
  shift 2
  while (($# > 0)); do
    arguments+=("--from-file=$1=$2")
    shift 2
  done
  kubectl create secret generic --namespace "$namespace" "$name" "${arguments[@]}" --dry-run=client --output json
}

# fetch_authority NAME: NAME.crt and NAME.key, from the Secret that keeps them.
fetch_authority() {
  local secret
  secret="$(kubectl get secret --namespace "$CLIENT_NAMESPACE" "$1-key" --output json)"
  jq -r '.data["tls.crt"] | @base64d' <<<"$secret" >"$1.crt"
  jq -r '.data["tls.key"] | @base64d' <<<"$secret" >"$1.key"
}

# Makes a directory of its own, only for this process, the current one.
enter_private_directory() {
  local directory
  umask 077
  directory="$(mktemp -d)"
  # shellcheck disable=SC2064 # the directory is known now
  trap "rm -rf '$directory'" EXIT
  cd "$directory" || exit
}
