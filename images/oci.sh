# shellcheck shell=bash
# Assembles OCI image archives from directories, without a registry or a container engine.
# Equal input gives equal bytes: entries are sorted, dates are fixed, owners are numeric.

# write_layer DIRECTORY LAYER: packs a directory as LAYER (.tar.gz or .tar.zst) and writes the
# digest of the uncompressed tar, which the image's configuration needs, to LAYER.diff-id.
write_layer() {
  local directory="$1" layer="$2" compress
  case "$layer" in
    *.tar.gz) compress=(gzip -n -6) ;;
    *.tar.zst) compress=(zstd -q -3 -T0) ;;
    *) echo "unknown layer compression: $layer" >&2 && return 1 ;;
  esac
  tar --create --directory "$directory" --sort=name --numeric-owner --mtime=@0 --format=posix \
    --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime --exclude='./dev/*' . |
    tee >(sha256sum | cut -d ' ' -f 1 >"$layer.diff-id.partial") | "${compress[@]}" >"$layer"
  # The process substitution may end after the pipeline does.
  until [[ -s $layer.diff-id.partial ]]; do sleep 0.05; done
  mv "$layer.diff-id.partial" "$layer.diff-id"
}

# write_archive ARCHIVE NAME TAG CONFIG.json LAYER…: CONFIG.json is the "config" object of the
# OCI image configuration (User, Entrypoint, Env, Labels, …).
write_archive() {
  local archive="$1" name="$2" tag="$3" config="$4" layout layer digest diff_ids=() layers=()
  shift 4
  layout="$(mktemp -d "$archive.XXXXXX")"
  mkdir -p "$layout/blobs/sha256"
  for layer in "$@"; do
    digest="$(sha256sum <"$layer" | cut -d ' ' -f 1)"
    ln "$layer" "$layout/blobs/sha256/$digest" 2>/dev/null || cp "$layer" "$layout/blobs/sha256/$digest"
    diff_ids+=("sha256:$(cat "$layer.diff-id")")
    layers+=("$(descriptor "$layout" "$digest" "$(layer_media_type "$layer")")")
  done

  jq -n --slurpfile config "$config" --arg architecture "$(dpkg --print-architecture)" \
    '{created: "1970-01-01T00:00:00Z", architecture: $architecture, os: "linux", config: $config[0],
      rootfs: {type: "layers", diff_ids: $ARGS.positional}}' --args "${diff_ids[@]}" >"$layout/config"
  digest="$(store_blob "$layout" config)"
  printf '%s\n' "${layers[@]}" | jq -s \
    --argjson config "$(descriptor "$layout" "$digest" application/vnd.oci.image.config.v1+json)" \
    '{schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
      config: $config, layers: .}' >"$layout/manifest"
  digest="$(store_blob "$layout" manifest)"

  # containerd reads the full name from its own annotation, skopeo the tag from the standard one.
  descriptor "$layout" "$digest" application/vnd.oci.image.manifest.v1+json |
    jq --arg name "$name:$tag" --arg tag "$tag" '{schemaVersion: 2,
      mediaType: "application/vnd.oci.image.index.v1+json", manifests: [. + {annotations: {
        "io.containerd.image.name": $name, "org.opencontainers.image.ref.name": $tag}}]}' \
      >"$layout/index.json"
  echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
  tar --create --file "$archive.partial" --directory "$layout" --sort=name --owner=0 --group=0 \
    --numeric-owner --mtime=@0 --mode=u+rwX,go+rX --hard-dereference blobs index.json oci-layout
  mv "$archive.partial" "$archive"
  rm -rf "$layout"
}

# archive_digest ARCHIVE: the digest of the image's manifest, which changes with the content.
archive_digest() {
  tar --extract --to-stdout --file "$1" index.json | jq -r '.manifests[0].digest'
}

# archive_name ARCHIVE: the image's full name with its tag.
archive_name() {
  tar --extract --to-stdout --file "$1" index.json | jq -r '.manifests[0].annotations["io.containerd.image.name"]'
}

store_blob() {
  local digest
  digest="$(sha256sum <"$1/$2" | cut -d ' ' -f 1)"
  mv "$1/$2" "$1/blobs/sha256/$digest"
  echo "$digest"
}

descriptor() {
  jq -n --arg mediaType "$3" --arg digest "sha256:$2" \
    --argjson size "$(stat -c %s "$1/blobs/sha256/$2")" '{$mediaType, $digest, $size}'
}

layer_media_type() {
  case "$1" in
    *.gz) echo application/vnd.oci.image.layer.v1.tar+gzip ;;
    *.zst) echo application/vnd.oci.image.layer.v1.tar+zstd ;;
  esac
}
