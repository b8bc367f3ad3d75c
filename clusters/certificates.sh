#!/bin/sh
# A certificate that the nodes of one cluster share, by an authority that signs nothing else: sh clusters/certificates.sh ADDRESS...
# It leaves authority.crt, node.crt and node.secret in $TLS_FOLDER (default ~/.ray/tls), for a year; the authority's own key is not kept. Run it
# again for a new node, and `ray up` again to hand it out.
set -eu
[ $# -gt 0 ] || { echo "usage: sh clusters/certificates.sh ADDRESS..." >&2; exit 2; }
names="DNS:localhost,IP:127.0.0.1"
for address in "$@"; do
    names="$names,IP:$address"
done
folder="${TLS_FOLDER:-$HOME/.ray/tls}"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
umask 077
mkdir -p "$folder"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 366 -subj "/CN=emray cluster authority" \
    -keyout "$scratch/authority.key" -out "$folder/authority.crt" 2> "$scratch/log" || { cat "$scratch/log" >&2; exit 1; }
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=emray node" \
    -keyout "$folder/node.secret" -out "$scratch/node.csr" 2> "$scratch/log" || { cat "$scratch/log" >&2; exit 1; }
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$names" > "$scratch/names"
openssl x509 -req -in "$scratch/node.csr" -CA "$folder/authority.crt" -CAkey "$scratch/authority.key" -set_serial 1 \
    -days 365 -extfile "$scratch/names" -out "$folder/node.crt" 2> "$scratch/log" || { cat "$scratch/log" >&2; exit 1; }
