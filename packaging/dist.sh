# The packages of the server, which need no compiler. A part of `dev`, whose functions it uses.

# What users download.
readonly ARTEFACTS=target/artefacts
# What the packages are made of.
readonly PARTS=target/artefacts.parts
readonly SERVER=packaging/server
readonly LICENCES=$SERVER/LICENSE-THIRD-PARTY
readonly MATERIALS=$SERVER/lockstock-server.cdx.json
# Installs and checks the packages.
readonly TEST_VENV=target/python/packages
# Of the binary in all packages and in the image, separated by commas.
SERVER_FEATURES=$(<packaging/features)
readonly SERVER_FEATURES
readonly CARGO_DEB=3.8.0

dev_dist() {
    exec </dev/null
    local is_test=
    if [[ ${1:-} == --test ]]; then
        is_test=1
        shift
    fi
    (($# == 0)) || die "dist does not accept $1"
    [[ $(uname -sm) == "Linux x86_64" ]] || die "the packages are built on Linux on x86-64 only"
    umask 022
    rm -rf "$ARTEFACTS" "$PARTS"
    mkdir -p "$ARTEFACTS" "$PARTS"
    step "python packages in $RELEASE_VENV" \
        make_venv python3 "$RELEASE_VENV" python/requirements/{build,release}.txt
    step "licences and bill of materials" server_crates
    step "wheel" server_wheel
    # Times in packages are those of the last commit, not of the build. Not set above, because C code is
    # compiled again when it changes; maturin writes no times.
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
    export SOURCE_DATE_EPOCH
    step "parts" server_parts
    step "Debian package" server_deb
    step "npm packages" server_npm
    step "checksums" checksums
    if [[ -n $is_test ]]; then
        dist_tools
        step "python packages in $TEST_VENV" make_venv python3 "$TEST_VENV" packaging/requirements.txt
        step "test" timeout 30m python3 packaging/test_artefacts.py "$ARTEFACTS" "$TEST_VENV"
    fi
    printf '\ndev: packages in %s after %ds\n' "$ARTEFACTS" "$SECONDS"
}

server_crates() {
    python3 packaging/third_party_licenses.py lockstock-shop "$LICENCES" --features "$SERVER_FEATURES"
    python3 packaging/bill_of_materials.py lockstock-shop "$MATERIALS" --features "$SERVER_FEATURES"
}

server_wheel() {
    local bin=$PWD/$RELEASE_VENV/bin out=$PWD/$ARTEFACTS
    # Panics name source files: without the folders of this machine, and the same on each machine.
    local -x RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
    RUSTFLAGS+=" --remap-path-prefix=$PWD="
    # In its folder, because maturin looks there for pyproject.toml. On the PATH, it finds zig.
    (cd "$SERVER" && PATH=$bin:$PATH maturin build --locked --features "$SERVER_FEATURES" \
        --zig --compatibility manylinux2014 --out "$out")
    "$bin/twine" check --strict "$ARTEFACTS"/*.whl
}

# Collects what the other packages contain. The binary is the one in the wheel.
server_parts() {
    local wheel=("$ARTEFACTS"/*.whl) binary=$PARTS/lockstock date
    python3 -m zipfile -e "${wheel[0]}" "$PARTS/wheel"
    install -m 755 "$PARTS"/wheel/*.data/scripts/lockstock "$binary"
    mkdir -p "$PARTS"/{man,completions}
    "$binary" man --folder "$PARTS/man"
    gzip -9n "$PARTS"/man/*
    "$binary" completions bash >"$PARTS/completions/lockstock"
    "$binary" completions zsh >"$PARTS/completions/_lockstock"
    "$binary" completions fish >"$PARTS/completions/lockstock.fish"
    cat packaging/deb/copyright LICENSE-MIT "$LICENCES" >"$PARTS/copyright"
    date=$(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")
    sed "s/VERSION/$(server_version)/; s/DATE/$date/" packaging/deb/changelog >"$PARTS/changelog"
}

server_version() {
    "$PARTS/lockstock" --version | cut -d ' ' -f 2
}

server_deb() {
    local deb
    deb=$(command -v cargo-deb || echo "$PWD/target/tools/bin/cargo-deb")
    if [[ ! -x $deb ]] && ! cargo install --locked --root target/tools "cargo-deb@$CARGO_DEB"; then
        echo "NOT BUILT: the Debian package, because cargo-deb is missing and cannot be installed"
        return
    fi
    "$deb" --quiet --no-build --no-strip --locked -p lockstock-shop --output "$ARTEFACTS/"
}

server_npm() {
    if ! has npm; then
        echo "NOT BUILT: the npm packages, because there is no npm here"
        return
    fi
    local platform=$PARTS/npm/lockstock-linux-x64 package
    cp -r packaging/npm "$PARTS/npm"
    install -D -m 755 "$PARTS/lockstock" "$platform/bin/lockstock"
    cp "$LICENCES" "$MATERIALS" "$platform"
    for package in "$PARTS"/npm/*; do
        cp LICENSE-* "$package"
        npm pack --silent --pack-destination "$ARTEFACTS" "./$package"
    done
}

checksums() {
    cp "$LICENCES" "$MATERIALS" "$ARTEFACTS"
    (cd "$ARTEFACTS" && sha256sum -- * >"../SHA256SUMS" && mv ../SHA256SUMS .)
    ls -l "$ARTEFACTS"
}

# Installs what the tests of packages need and this machine lacks.
dist_tools() {
    local missing=()
    has lintian || missing+=(lintian)
    has mmdebstrap || missing+=(mmdebstrap)
    has objdump || missing+=(binutils)
    if ((${#missing[@]})); then
        step "install ${missing[*]}" install_packages "${missing[@]}"
    fi
}
