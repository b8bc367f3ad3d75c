# Sourced by every shell of a node, and so seen by every process of Ray: emray's Python first, token authentication, the keys
# of judge and hub, and TLS between nodes where the cluster has certificates.
export PATH="$HOME/emray/.venv/bin:$PATH"
export RAY_AUTH_MODE=token
if [ -f "$HOME/.ray/keys.sh" ]; then
    # shellcheck disable=SC1091  # no part of the code
    . "$HOME/.ray/keys.sh"
fi
if [ -d "$HOME/.ray/tls" ]; then
    export RAY_USE_TLS=1
    export RAY_TLS_SERVER_CERT="$HOME/.ray/tls/node.crt"
    export RAY_TLS_SERVER_KEY="$HOME/.ray/tls/node.secret"
    export RAY_TLS_CA_CERT="$HOME/.ray/tls/authority.crt"
fi
