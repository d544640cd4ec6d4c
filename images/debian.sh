# shellcheck shell=bash
# Root file systems from Debian packages.

# debian_root SUITE DIRECTORY PACKAGES [MMDEBSTRAP OPTION…]: a small Debian with the packages
# (comma-separated) and what they depend on, without documentation, translations and caches.
debian_root() {
  local suite="$1" directory="$2" packages="$3" mirror mirror_argument=()
  shift 3
  mirror="$(debian_mirror)"
  if [[ -n $mirror ]]; then
    mirror_argument=("$mirror")
  fi
  mmdebstrap --variant=essential --mode=root --format=directory --include="$packages" \
    --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
    --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$@" "$suite" "$directory" "${mirror_argument[@]}"
  remove_package_management "$directory"
}

# The mirror that this machine's own apt uses for Debian; nothing on a machine that has none,
# where mmdebstrap's default is used.
debian_mirror() {
  # shellcheck disable=SC2016 # apt expands these
  apt-get indextargets --format '$(ORIGIN) $(LABEL) $(SITE)' 2>/dev/null |
    sed -n 's/^Debian Debian \(http.*\)$/\1/p' | head -n 1
}

# What only serves to install more packages has no use in an image: packages' scripts are Perl.
remove_package_management() {
  local root="$1"
  rm -rf "$root"/var/lib/{apt,dpkg} "$root"/var/cache/* "$root"/var/log/* "$root"/tmp/* \
    "$root"/usr/share/{doc,man,info,locale,lintian,debconf} \
    "$root"/usr/share/{perl,perl5,i18n} "$root"/usr/lib/*-linux-gnu/{perl,perl-base} \
    "$root"/usr/bin/{perl*,apt,apt-*,dpkg,dpkg-*} "$root"/usr/lib/{apt,dpkg} \
    "$root"/usr/lib/*-linux-gnu/{libapt-*,gconv}
  : >"$root/etc/hostname"
  : >"$root/etc/resolv.conf"
}
